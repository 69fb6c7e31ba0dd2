"""Forms of a depthwise convolution with a large kernel, written once in keras.ops, each with its gradients.

A form is a function of images and kernel that returns what Keras's DepthwiseConv2D does, with padding "same", stride 1:

    y = FORMS["banded 4"](x, kernel)        # x [channels, batch, height, width], kernel [k, k, channels]
    y = FORMS["shifted"](x, kernel)         # x [batch, height, width, channels]

`layout(name)` says which of the two layouts a form takes and returns; any float dtype, sums in float32. Kernels may be
odd or even in size; an even one is padded by one more at the bottom and right, as Keras's and PyTorch's "same".

Cost of a layer, on paper; a multiplication and its addition count once. P = batch x height x width positions, C
channels, k the kernel's side, W the width, b rows of output a block. An activation of 2 P C bytes (bfloat16) is moved:

| form | multiplications | activations moved forward | unit |
|---|---|---|---|
| keras, shifted | k k P C | 2 | vector (H100: 67 TFLOP/s in float32) |
| pieces | k k P C | 2 pieces + 1 | vector |
| banded b | (b + k - 1) W P C | 2 + 2 (b + k - 1) / b, and the matrix C (b + k - 1) W b W | tensor cores (990) |
| transposed b | the same | 4 more | tensor cores |

The banded forms do 2 to 9 times the multiplications on units that are 15 times as fast, and are bound by memory: the
windows cost (b + k - 1) / b activations, written and read, and the matrix grows with b (b + k - 1), whatever the batch.
On paper b = 4 is least at 64 images and b = 8 at 256. The first two rows are lower on paper, but no library's kernel
comes near the vector units' peak: they are slower where they reach less than about 40 % of it.
"""

from functools import partial
from itertools import pairwise

from keras import ops

PIECE = 5  # largest side of a kernel's piece: cuDNN has depthwise kernels of its own for sizes up to 5x5


def layout(form: str) -> str:
    """Return "channel-major" for `[channels, batch, height, width]`, else "nhwc"."""
    return "channel-major" if form.startswith("banded") else "nhwc"


def margins(size: int) -> tuple[int, int]:
    """Return by how many zeros "same" pads before and after for a kernel of `size` taps."""
    return (size - 1) // 2, size // 2


def by_keras(x, kernel):
    """Convolve by keras.ops.depthwise_conv: the backend's own choice of kernel."""
    return ops.depthwise_conv(x, kernel[..., None], padding="same", data_format="channels_last")


def by_pieces(x, kernel, piece: int = PIECE):
    """Convolve by kernels of at most `piece` x `piece` taps whose results are summed."""
    _, height, width, _ = x.shape
    size = kernel.shape[0]
    padded = ops.pad(x, [(0, 0), margins(size), margins(size), (0, 0)])
    count = -(-size // piece)
    edges = [round(size * i / count) for i in range(count + 1)]  # 9 taps in pieces of at most 5: [0, 4, 9]
    total = 0.0
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            # The part of the padded images that these taps see: "valid" then gives height x width.
            part = padded[:, top : height + bottom - 1, left : width + right - 1]
            taps = kernel[top:bottom, left:right, :, None]
            y = ops.depthwise_conv(part, taps, padding="valid", data_format="channels_last")
            total = total + ops.cast(y, "float32")
    return ops.cast(total, x.dtype)


def by_shifts(x, kernel):
    """Convolve by a sum over shifted images, a term for each tap, which XLA fuses into one loop."""

    @ops.custom_gradient
    def convolve(x, kernel):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _shifted(upstream, kernel, backward=True), _tap_gradients(x, upstream, kernel)

        return _shifted(x, kernel), gradient

    return convolve(x, kernel)


def _shifts(x, size, backward=False):
    # The gradient of the images convolves with the flipped kernel, padded the other way round: even kernels differ.
    margin = margins(size)[::-1] if backward else margins(size)
    _, height, width, _ = x.shape
    padded = ops.pad(x, [(0, 0), margin, margin, (0, 0)])
    for i in range(size):
        for j in range(size):
            yield i, j, padded[:, i : i + height, j : j + width]


def _shifted(x, kernel, backward=False):
    size = kernel.shape[0]
    taps = ops.flip(kernel, (0, 1)) if backward else kernel
    taps = ops.cast(taps, "float32")
    total = sum(ops.cast(image, "float32") * taps[i, j] for i, j, image in _shifts(x, size, backward))
    return ops.cast(total, x.dtype)


def _tap_gradients(x, upstream, kernel):
    size = kernel.shape[0]
    upstream = ops.cast(upstream, "float32")
    sums = [ops.sum(ops.cast(image, "float32") * upstream, axis=(0, 1, 2)) for _, _, image in _shifts(x, size)]
    return ops.cast(ops.reshape(ops.stack(sums), kernel.shape), kernel.dtype)


def by_bands(x, kernel, rows: int = 1):
    """Convolve channel-major images by one matrix product a channel, `rows` rows of output at once.

    In one dimension, width 4 and 3 taps (a, b, c), the product with a banded matrix is the convolution, and the zero
    padding is what falls out of the band:

        y0         b c 0 0   x0
        y1    =    a b c 0   x1
        y2         0 a b c   x2
        y3         0 0 a b   x3

    In two, a block of `rows` rows of output is the product of the rows + k - 1 rows of input that it sees with a
    matrix whose blocks are such bands. The gradient of the images is the same form with the flipped kernel; a tap's
    gradient is the sum along its diagonal of the product of the upstream's windows with the images. Only the images
    are kept for the backward pass, not their windows.

    Args:
        x: `[channels, batch, height, width]`.
        kernel: `[k, k, channels]`.
        rows: of output in a block; 1 puts k rows of input side by side. `height` need not divide by it.
    """

    @ops.custom_gradient
    def convolve(x, kernel):
        size, width = kernel.shape[0], x.shape[-1]
        y = _blocks_to_images(_windows(x, size, rows) @ _banded(kernel, width, rows, x.dtype), x.shape)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            windows = _windows(upstream, size, rows, backward=True)
            flipped = ops.flip(kernel, (0, 1))
            dx = _blocks_to_images(windows @ _banded(flipped, width, rows, x.dtype, backward=True), x.shape)
            # Of the matrix that took the upstream to the images' gradient: windows^T x.
            product = ops.swapaxes(windows, 1, 2) @ _images_to_blocks(x, rows)
            taps = _diagonal_sums(product, size, width, rows, backward=True)
            return dx, ops.cast(ops.flip(taps, (0, 1)), kernel.dtype)

        return y, gradient

    return convolve(x, kernel)


def by_transposed_bands(x, kernel, rows: int = 1):
    """Convolve `[batch, height, width, channels]` by `by_bands` between two transpositions."""
    return ops.transpose(by_bands(ops.transpose(x, (3, 0, 1, 2)), kernel, rows), (1, 2, 3, 0))


def _images_to_blocks(x, rows):
    # [c, n, h, w] -> [c, n * blocks, rows * w]
    channels, batch, height, width = x.shape
    blocks = -(-height // rows)
    x = ops.pad(x, [(0, 0), (0, 0), (0, blocks * rows - height), (0, 0)])
    return ops.reshape(x, (channels, batch * blocks, rows * width))


def _blocks_to_images(y, shape):
    # [c, n * blocks, rows * w] -> [c, n, h, w]
    channels, batch, height, width = shape
    return ops.reshape(y, (channels, batch, -1, width))[:, :, :height]


def _windows(x, size, rows, backward=False):
    # [c, n, h, w] -> [c, n * blocks, (rows + k - 1) * w]: what each block of output rows sees, from strips of `rows`
    # rows side by side, so that whole strips are copied and not single rows.
    channels, batch, height, width = x.shape
    before = margins(size)[backward]
    blocks, strips = -(-height // rows), -(-(rows + size - 1) // rows)
    x = ops.pad(x, [(0, 0), (0, 0), (before, (blocks + strips - 1) * rows - height - before), (0, 0)])
    x = ops.reshape(x, (channels, batch, blocks + strips - 1, rows * width))
    seen = (rows + size - 1) * width
    parts = [x[:, :, i : i + blocks, : min(rows * width, seen - i * rows * width)] for i in range(strips)]
    return ops.reshape(ops.concatenate(parts, axis=-1), (channels, batch * blocks, seen))


def _banded(kernel, width, rows, dtype, backward=False):
    # [k, k, c] -> [c, (rows + k - 1) * w, rows * w']: the tap for input row r, column w and output row s, column w' is
    # kernel[r - s, w - w' + before].
    size, _, channels = kernel.shape
    before = margins(size)[backward]
    taps = ops.transpose(ops.cast(kernel, dtype), (2, 0, 1))  # [c, i, j]
    bands = _skew(taps, width, axis=2)  # [c, i, w', w + padding]
    bands = bands[..., before : before + width]  # zero padding falls out
    blocks = _skew(bands, rows, axis=1)  # [c, s, r, w', w]
    matrix = ops.transpose(blocks, (0, 2, 4, 1, 3))  # [c, r, w, s, w']
    return ops.reshape(matrix, (channels, (rows + size - 1) * width, rows * width))


def _skew(x, copies, axis):
    # Put `copies` copies of an axis of k entries side by side on a new axis before it, the m-th moved right by m:
    # [.., k, ..] -> [.., copies, copies + k - 1, ..]. As a row of length copies + k, repeated and read again in rows
    # shorter by one, moves by one each time, no index is computed and nothing is gathered.
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    longer = copies + size
    x = ops.pad(x, [(0, copies if a == axis else 0) for a in range(len(x.shape))])
    x = ops.broadcast_to(ops.expand_dims(x, axis), (*before, copies, longer, *after))
    x = ops.reshape(x, (*before, copies * longer, *after))
    x = x[(slice(None),) * axis + (slice(0, copies * (longer - 1)),)]
    return ops.reshape(x, (*before, copies, longer - 1, *after))


def _unskewed_sum(x, size, axis):
    # The transpose of _skew: sum along diagonals, [.., copies, copies + k - 1, ..] -> [.., k, ..].
    before, copies, after = x.shape[:axis], x.shape[axis], x.shape[axis + 2 :]
    longer = copies + size
    x = ops.reshape(x, (*before, copies * (longer - 1), *after))
    x = ops.pad(x, [(0, copies if a == axis else 0) for a in range(len(x.shape))])
    x = ops.sum(ops.reshape(x, (*before, copies, longer, *after)), axis=axis)
    return x[(slice(None),) * axis + (slice(0, size),)]


def _diagonal_sums(product, size, width, rows, backward=False):
    # The transpose of _banded, summed in float32: [c, (rows + k - 1) * w, rows * w'] -> [k, k, c].
    channels = product.shape[0]
    before = margins(size)[backward]
    x = ops.reshape(ops.cast(product, "float32"), (channels, rows + size - 1, width, rows, width))
    x = ops.transpose(x, (0, 3, 1, 4, 2))  # [c, s, r, w', w]
    x = _unskewed_sum(x, size, axis=1)  # [c, i, w', w]
    x = ops.pad(x, [(0, 0), (0, 0), (0, 0), (before, size - 1 - before)])
    return ops.transpose(_unskewed_sum(x, size, axis=2), (1, 2, 0))


ROWS = (1, 2, 4, 8)
FORMS = {
    "keras": by_keras,
    **{f"banded {rows}": partial(by_bands, rows=rows) for rows in ROWS},
    "shifted": by_shifts,
    "pieces": by_pieces,
    **{f"transposed {rows}": partial(by_transposed_bands, rows=rows) for rows in ROWS},
}


def cost(form: str, batch: int, height: int, width: int, channels: int, size: int, item: int = 2) -> dict:
    """Return what a forward pass costs on paper: multiplications, and bytes moved at `item` bytes a number.

    >>> cost("keras", 64, 32, 32, 1536, 9)
    {'multiplications': 8153726976, 'bytes': 403150848}
    """
    values = batch * height * width * channels
    if not form.startswith(("banded", "transposed")):
        moved = 2 * values
        if form == "pieces":
            moved = (2 * (-(-size // PIECE)) ** 2 + 1) * values
        return {"multiplications": size * size * values, "bytes": item * (moved + size * size * channels)}
    rows = int(form.split()[1])
    padded = -(-height // rows) * rows * values // height  # outputs in whole blocks
    windows = padded * (rows + size - 1) // rows
    matrix = channels * (rows + size - 1) * width * rows * width
    transposed = 4 * values if form.startswith("transposed") else 0
    # images read, windows written and read, the matrix written and read, the result written
    moved = values + 2 * windows + 2 * matrix + padded + transposed
    return {"multiplications": (rows + size - 1) * width * padded, "bytes": item * moved}
