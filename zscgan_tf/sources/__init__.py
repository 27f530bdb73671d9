"""Sources: where images come from.

A source is an object with `image_shape` (H, W, C), `batch_size`, `has_labels`, `description` (a
dict of JSON values: which images these are, so what is made of them belongs to it), and
`batches(start=0)`: an endless iterator of (pixels [B, H, W, C] float32 in [0, 1], labels [B] int32
or None) from batch number `start`. The same seed gives the same batches, and `batches(start)` what
`batches()` gives after `start` batches. A source of stored images also has `image_count` and
`one_pass()`: every image once, in stored order, the last batch as short as need be.
"""


def take(batches, count):
    """The first `count` images of batches, (pixels, labels); the last batch as short as need be."""
    for pixels, labels in batches:
        size = min(count, len(pixels))
        yield pixels[:size], None if labels is None else labels[:size]
        count -= size
        if not count:
            return
