import itertools

import numpy as np

from zscgan_tf.sources.order import consecutive_batches, epoch_order, index_batches


def test_every_image_once_an_epoch():
    labels = np.random.default_rng(0).integers(0, 7, 100)
    for some in (labels, None):
        assert sorted(epoch_order(100, some, 1, 2)) == list(range(100))
    a, b, c = (epoch_order(100, labels, *key) for key in ((1, 2), (1, 3), (2, 2)))
    assert not np.array_equal(a, b) and not np.array_equal(a, c)


def test_any_beginning_is_balanced():
    labels = np.repeat(np.arange(5), 20)
    order = epoch_order(100, labels, 0, 0)
    for length in range(1, 101):
        counts = np.bincount(labels[order[:length]], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_a_rare_class_takes_turns_until_it_has_no_more_images():
    labels = np.array([7] * 20 + [2] * 3)
    beginning = labels[epoch_order(23, labels, 0, 0)][:6]
    assert sorted(beginning) == [2, 2, 2, 7, 7, 7]


def test_batches_run_through_epochs():
    labels = np.arange(7) % 2
    epochs = np.concatenate([epoch_order(7, labels, 5, epoch) for epoch in range(6)])
    for batch_size in (1, 3, 7, 20):
        count = len(epochs) // batch_size
        batches = list(itertools.islice(index_batches(7, labels, batch_size, 5), count))
        np.testing.assert_array_equal(np.concatenate(batches), epochs[: count * batch_size])
        late = list(itertools.islice(index_batches(7, labels, batch_size, 5, 1), count - 1))
        np.testing.assert_array_equal(late, batches[1:])


def test_consecutive_batches():
    assert [list(b) for b in consecutive_batches(5, 2)] == [[0, 1], [2, 3], [4]]
