"""What a distillation refuses before any work."""

import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.sources import Source, description_of
from zscgan_tf.sources.batches import check_classes
from zscgan_tf.student.calibration.calibrate import check_images
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.training.strategy import check_batch_size


def check_replicas(options: DistillationOptions, batch_size: int, replicas: int) -> None:
    """Refuses a distillation that these replicas cannot share.

    Args:
        options: of the distillation.
        batch_size: images of the global batch.
        replicas: number of replicas.

    Raises:
        UserError: with what to pass.
    """
    if options.generator_every > 1 and replicas > 1:
        raise UserError(
            f'--generator_every={options.generator_every} is for one device, and the strategy has '
            f'{replicas} replicas: pass --strategy=default, or --generator_every=1.'
        )
    if options.student == 'tfmot' and replicas > 1:
        # tfmot averages the extremes of the replicas, so ranges would depend on their number.
        raise UserError(
            f'--student=tfmot is for one device, and the strategy has {replicas} replicas: pass '
            f'--strategy=default, or --student=folded.'
        )
    # A pair that is blended is of one replica.
    pairs = options.mix and replicas > 1
    if pairs and not batch_size % replicas and batch_size % (2 * replicas):
        raise UserError(
            f'{batch_size} images a batch cannot be shared by {replicas} replicas in pairs, which '
            f'are blended: pass --nomix, or a batch size that is a multiple of {2 * replicas}.'
        )
    check_batch_size(batch_size, replicas, multiple=2 if pairs else 1)


def check_scope(generator: tf_keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Refuses to go on training a generator that was made for another strategy.

    Raises:
        UserError: a variable was made outside of its scope.
    """
    in_scope = strategy.extended.variable_created_in_scope
    if not all(map(in_scope, generator.variables)):
        raise UserError(
            'the generator was not made in the scope of this strategy: call load_generator within '
            'strategy.scope().'
        )


def check_source(teacher: Teacher, source: Source, options: DistillationOptions) -> None:
    """Refuses, before any work, a source that cannot feed this distillation.

    Raises:
        UserError: see `calibrate.check_images`; λ < 1 without labels; no generator to update.
    """
    check_images(teacher, source, options)
    if options.soft_target_weight < 1:
        _check_labels(teacher, source, f'--soft_target_weight={options.soft_target_weight:g}')
    if options.update_generator and not hasattr(source, 'generator'):
        raise UserError(
            '--update_generator (on by default with --preset=paper) has no generator to update: '
            'pass --source=zscgan, or --noupdate_generator.'
        )
    if options.update_generator and source.batch_size != source.options['batch_size']:
        raise UserError(
            f'update_generator goes on with the {source.options["batch_size"]} images a batch of '
            f'the generator, and the source has {source.batch_size}: load the generator with '
            f'batch_size={source.options["batch_size"]}.'
        )


def _check_labels(teacher, source, flag):
    """Refuses labels that no student of this teacher can learn from."""
    if not source.has_labels:
        raise UserError(
            f'{flag} needs labels, which this source does not have: pass 1 (eq. 4), or a source '
            f'with labels.'
        )
    if source.num_classes:
        check_classes(source.num_classes, teacher)
    if teacher.has_independent_labels and description_of(source)['kind'] in ('files', 'dataset'):
        raise UserError(
            f'{flag} needs labels as {teacher.name} gives them, and these images have one class '
            f'each: pass 1 (eq. 4).'
        )
