"""Distributed training: the `tf.distribute` strategy, and each replica's part of a batch."""

import functools

import tensorflow as tf

from zscgan_tf.errors import UserError


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of a name.

    Args:
        name: 'default' (one device), 'mirrored' (all GPUs, or all logical CPUs, of the machine),
            or 'tpu'.

    Raises:
        UserError: the name is unknown, or there is no TPU.
    """
    if name == 'default':
        return tf.distribute.get_strategy()
    if name == 'mirrored':
        return _mirrored()
    if name == 'tpu':
        return _tpu()
    raise UserError(f'--strategy={name} is unknown: pass one of default, mirrored, tpu.')


@functools.cache
def _mirrored():
    """One a process: the collective operations of a second one would be taken for the first's."""
    gpus = tf.config.list_logical_devices('GPU')
    return tf.distribute.MirroredStrategy(gpus or tf.config.list_logical_devices('CPU'))


@functools.cache
def _tpu():
    """One a process: initializing the TPU again would lose the variables of the first."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            '--strategy=tpu: no TPU was found; pass --strategy=default on this machine.'
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def check_batch_size(batch_size: int, replicas: int, multiple: int = 1) -> None:
    """Refuses a global batch that replicas cannot share in equal parts.

    Args:
        batch_size: images of the global batch.
        replicas: number of replicas.
        multiple: the number of images of a part is a multiple of this.

    Raises:
        UserError: the replicas cannot share the batch.
    """
    if batch_size % (replicas * multiple):
        raise UserError(
            f'{batch_size} images a batch cannot be shared by {replicas} replicas: pass a '
            f'batch size that is a multiple of {replicas * multiple}, or --strategy=default.'
        )


def replica_slice(tensor: tf.Tensor, replicas: tf.distribute.ReplicaContext) -> tf.Tensor:
    """This replica's part of a tensor that was drawn for the global batch."""
    share = tensor.shape[0] // replicas.num_replicas_in_sync
    start = replicas.replica_id_in_sync_group * share
    # Of a static size, though a TPU tells the replica's number only when it runs.
    begin = [start, *[0] * (tensor.shape.rank - 1)]
    return tf.slice(tensor, begin, [share, *tensor.shape[1:]])


def fold_seed(seed: int, index: tf.Tensor | int, stream: int) -> tf.Tensor:
    """A stateless seed, [2], for one stream of random numbers of step `index`."""
    return tf.random.experimental.stateless_fold_in(
        tf.stack([tf.constant(seed, tf.int64), tf.cast(index, tf.int64)]), stream, alg='philox'
    )
