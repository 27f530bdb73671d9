import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
# Read, not imported: the package's own requirements are not there yet.
PACKAGE = (ROOT / 'zscgan_tf' / '__init__.py').read_text(encoding='utf-8')

setup(
    name='zscgan-tf',
    version=re.search(r"^__version__ = '(.+)'$", PACKAGE, re.MULTILINE).group(1),
    description='Quantizes trained Keras classifiers to integer .tflite files without their data',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    author='The zscgan_tf authors',
    keywords='quantization data-free tflite litert keras tensorflow int8 zero-shot',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['zscgan_tf', 'zscgan_tf.*']),
    package_data={'zscgan_tf.report': ['templates/*.html']},
    python_requires='>=3.11,<3.14',
    # Ranges around the versions that were run together, from training to the running .tflite.
    install_requires=[
        'absl-py>=1.4',
        'ai-edge-litert>=2.3,<3',
        'h5py>=3.10',
        'jinja2>=3.1,<4',
        'keras>=3.15,<4',
        'matplotlib>=3.8,<4',
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
        'gpu': ['tensorflow[and-cuda]>=2.21,<2.22'],
        'test': [
            'importlib_resources',  # tensorflow-datasets writes datasets with it
            'ipykernel>=6',  # the notebook runs in it
            'nbclient>=0.10',
            'nbformat>=5.10',
            'pytest>=8',
            'pytest-xdist>=3.7',
            'ruff>=0.9',
            'scikit-learn>=1.4',
            'setuptools>=64',  # these two build the wheel that is tested
            'tf2cv>=0.0.18',
            'wheel>=0.40',
        ],
    },
    entry_points={
        'console_scripts': [
            'zscgan-quantize = zscgan_tf.commands.quantize:run',
            'zscgan-train-generator = zscgan_tf.commands.train_generator:run',
            'zscgan-distill = zscgan_tf.commands.distill:run',
            'zscgan-synthesize = zscgan_tf.commands.synthesize:run',
            'zscgan-evaluate = zscgan_tf.commands.evaluate:run',
            'zscgan-report = zscgan_tf.commands.report:run',
        ],
    },
)
