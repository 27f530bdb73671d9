from setuptools import find_packages, setup

setup(
    name='zscgan-tf',
    version='0.1.0',
    description='Integer .tflite files from trained Keras classifiers, without any data',
    packages=find_packages(include=['zscgan_tf', 'zscgan_tf.*']),
    python_requires='>=3.11',
    # Ranges around the versions that were run together, from training to the running .tflite.
    install_requires=[
        'absl-py>=1.4',
        'ai-edge-litert>=2.3,<3',
        'h5py>=3.10',
        'keras>=3.15,<4',
        'numpy>=1.26',
        'pillow>=10.1',
        'tensorboard>=2.20,<3',  # tf.summary writes through it
        'tensorflow>=2.21,<2.22',
        'tensorflow-datasets>=4.9.10,<5',
        'tensorflow-model-optimization>=0.8.1,<0.9',
        'tf_keras>=2.21,<2.22',
        'tqdm>=4.60',
    ],
    extras_require={
        'test': [
            'importlib_resources',  # tensorflow-datasets writes datasets with it
            'pytest>=8',
            'pytest-xdist>=3.7',
            'ruff>=0.9',
            'scikit-learn>=1.4',
            'tf2cv>=0.0.18',
        ],
    },
    entry_points={
        'console_scripts': [
            'zscgan-quantize = zscgan_tf.commands.quantize:run',
            'zscgan-train-generator = zscgan_tf.commands.train_generator:run',
            'zscgan-distill = zscgan_tf.commands.distill:run',
            'zscgan-synthesize = zscgan_tf.commands.synthesize:run',
            'zscgan-evaluate = zscgan_tf.commands.evaluate:run',
        ],
    },
)
