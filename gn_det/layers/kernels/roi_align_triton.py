"""The Triton kernels of RoIAlign: what one program computes. :mod:`.roi_align` launches them.

A bin is a weighted sum of pixels, and its weights are the outer product of a vector along y and a
vector along x. So both directions take two steps, of which the second is a small matrix product::

    out[r, py, :]  = Wx[r]                  * sum over y  of wy[r, py, y] features[y, :]
    grad[y, :]     = sum over r of Wx[r]^T  * sum over py of wy[r, py, y] grad_out[r, py, :]

The gradient gathers. A program owns some pixels of a row, and adds the RoIs that touch them in the
order of the RoIs. There are no atomics: the same input gives the same bits.

Coordinates are float64, weights and sums are float32.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

__all__ = ["backward_kernel", "forward_kernel", "levels_kernel"]

# They change from batch to batch, which is no reason to compile again. For the ints of a tuple
# Triton would, so heights and widths are floats.
CHANGING = ["images", "rois"]

MARGIN = tl.constexpr(3.0)


@triton.jit
def _of_level(values, level):
    """Return ``values[level]`` of a tuple."""
    found = values[0]
    for i in tl.static_range(1, len(values)):
        if level == i:
            found = values[i]
    return found


@triton.jit
def _scale_of_level(SCALES: tl.constexpr, level):
    found = tl.full([], SCALES[0], tl.float64)
    for i in tl.static_range(1, len(SCALES)):
        found = tl.where(level == i, tl.full([], SCALES[i], tl.float64), found)
    return found


@triton.jit
def _axis(low, high, scale, BINS: tl.constexpr, RATIO: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the start of RoIs along an axis, the length of a bin, and its number of samples."""
    start = low.to(tl.float64) * scale
    length = high.to(tl.float64) * scale
    if ALIGNED:
        start -= 0.5
        length -= 0.5
    length -= start
    if not ALIGNED:
        length = tl.maximum(length, 1.0)
    step = length / BINS
    samples = tl.full([], RATIO, tl.int32)
    if RATIO <= 0:
        samples = tl.minimum(tl.maximum(tl.ceil(step), 0.0), 1e9).to(tl.int32)
    return start, step, samples


@triton.jit
def _sample(start, step, samples, bins, index, extent):
    """Return the pixel before a sample of a bin, its weight, and the weight of the pixel after."""
    # the order of torchvision's operations: rounding decides about a sample right at the border
    at = start + bins * step + (index + 0.5) * step / samples
    inside = (at >= -1.0) & (at <= extent)
    at = tl.minimum(tl.maximum(at, 0.0), extent - 1.0)
    pixel = at.to(tl.int32)
    after = (at - pixel).to(tl.float32)
    weight = tl.where(inside, 1.0, 0.0) / samples
    return pixel, weight * (1.0 - after), weight * after


@triton.jit
def _weights(start, step, samples, bins, pixels, extent):
    """Return the weights of pixels in bins, of their common shape."""
    total = (bins + pixels).to(tl.float32) * 0.0
    for index in range(samples):
        pixel, weight, weight_after = _sample(start, step, samples, bins, index, extent)
        total += tl.where(pixels == pixel, weight, 0.0)
        total += tl.where(pixels == pixel + 1, weight_after, 0.0)
    return total


@triton.jit(do_not_specialize=CHANGING)
def forward_kernel(
    out_ptr,
    rois_ptr,
    levels_ptr,
    features,
    heights,
    widths,
    images,
    C,
    SCALES: tl.constexpr,
    PY: tl.constexpr,
    PX: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BP: tl.constexpr,
    BX: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute a row of bins, ``out[r, :, py, :]``, for some channels.

    Args:
        out_ptr: The result of shape (R, C, PY, PX), with the memory format of the features.
        rois_ptr: The RoIs of shape (R, 5).
        levels_ptr: The levels of shape (R,).
        features: The pointer to each level, of shape (N, C, H, W).
        heights: H of each level, as floats.
        widths: W of each level, as floats.
        images: The number of images N.
        C: The number of channels.
        SCALES: The scale of each level.
        PY: The number of bins along y.
        PX: The number of bins along x.
        RATIO: The number of samples of a bin along each axis; 0 for one sample per pixel.
        ALIGNED: Whether pixel centers are at 0.5.
        CHANNELS_LAST: Whether features and result are channels_last, not contiguous.
        BP: The number of bins of the matrix product, a power of 2 and PX or more.
        BX: The number of pixels that are read at once.
        BC: The number of channels of a program.
    """
    roi = tl.program_id(0) // PY
    py = tl.program_id(0) % PY
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    bins = tl.arange(0, BP)

    level = tl.load(levels_ptr + roi).to(tl.int32)
    image = tl.load(rois_ptr + roi * 5)
    x0 = tl.load(rois_ptr + roi * 5 + 1)
    y0 = tl.load(rois_ptr + roi * 5 + 2)
    x1 = tl.load(rois_ptr + roi * 5 + 3)
    y1 = tl.load(rois_ptr + roi * 5 + 4)
    known = (level >= 0) & (level < len(SCALES)) & (image >= 0) & (image < images)
    known = known & (tl.abs(x1 - x0) < float("inf")) & (tl.abs(y1 - y0) < float("inf"))
    scale = _scale_of_level(SCALES, level)
    height = tl.cast(_of_level(heights, level), tl.int32)
    width = tl.cast(_of_level(widths, level), tl.int32)
    y_start, y_step, y_samples = _axis(y0, y1, scale, PY, RATIO, ALIGNED)
    x_start, x_step, x_samples = _axis(x0, x1, scale, PX, RATIO, ALIGNED)
    # what cannot be pooled is NaN, so that it is seen; nothing is read for it
    y_samples = tl.where(known, y_samples, 0)
    pooled = tl.full([BP, BC], 0.0, tl.float32) + tl.where(known, 0.0, float("nan"))

    base = _of_level(features, level)
    base += tl.where(known, image, 0.0).to(tl.int64) * C * height * width
    if CHANNELS_LAST:
        stride_c, stride_y, stride_x = 1, width * C, C
    else:
        stride_c, stride_y, stride_x = height * width, width, 1

    x_end = x_start + PX * x_step
    first = tl.minimum(tl.maximum(tl.minimum(x_start, x_end), 0.0), width - 1.0).to(tl.int32)
    last = tl.minimum(tl.maximum(tl.maximum(x_start, x_end) + 1.0, 0.0), width - 1.0).to(tl.int32)
    for begin in range(first, tl.where(known, last, -1) + 1, BX):
        x = begin + tl.arange(0, BX)
        mask = (x <= last)[:, None] & (c < C)[None, :]
        at = base + x[:, None] * stride_x + c[None, :] * stride_c
        line = tl.zeros([BX, BC], tl.float32)
        for index in range(y_samples):
            y, weight, weight_after = _sample(y_start, y_step, y_samples, py, index, height)
            y_after = tl.minimum(y + 1, height - 1)
            line += weight * tl.load(at + y * stride_y, mask=mask, other=0.0).to(tl.float32)
            line += weight_after * tl.load(at + y_after * stride_y, mask=mask, other=0.0).to(
                tl.float32
            )
        weights = _weights(x_start, x_step, x_samples, bins[:, None], x[None, :], width)
        pooled += tl.dot(weights, line, input_precision="ieee")

    if CHANNELS_LAST:
        at = ((roi.to(tl.int64) * PY + py) * PX + bins)[:, None] * C + c[None, :]
    else:
        at = ((roi.to(tl.int64) * C + c)[None, :] * PY + py) * PX + bins[:, None]
    mask = (bins < PX)[:, None] & (c < C)[None, :]
    tl.store(out_ptr + at, pooled.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=CHANGING)
def backward_kernel(
    grad_out_ptr,
    rois_ptr,
    levels_ptr,
    grads,
    heights,
    widths,
    images,
    rois,
    C,
    SCALES: tl.constexpr,
    PY: tl.constexpr,
    PX: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BPY: tl.constexpr,
    BP: tl.constexpr,
    BX: tl.constexpr,
    BC: tl.constexpr,
    BR: tl.constexpr,
):
    """Compute the gradient of BX pixels of a row of one image and level, for some channels.

    Args:
        grad_out_ptr: The gradient of the result, of shape (R, C, PY, PX), with the memory format of
            the features.
        rois_ptr: See the forward; here too all that follows.
        levels_ptr: See there.
        grads: The pointer to the gradient of each level, of shape (N, C, H, W), in that format.
        heights: See there.
        widths: See there.
        images: See there.
        rois: The number of RoIs R.
        C: See there.
        SCALES: See there.
        PY: See there.
        PX: See there.
        RATIO: See there.
        ALIGNED: See there.
        CHANNELS_LAST: See there.
        BPY: A power of 2, PY or more.
        BP: See there.
        BX: The number of pixels of a program.
        BC: See there.
        BR: The number of RoIs that are looked at at once.
    """
    # The last level comes first: its programs have the most RoIs, and should not start last.
    tile = tl.program_id(0)
    level = len(SCALES) - 1
    for i in tl.static_range(len(SCALES) - 1, 0, -1):
        lines = images * tl.cast(heights[i], tl.int32)
        tiles = lines * tl.cdiv(tl.cast(widths[i], tl.int32), BX)
        if (level == i) & (tile >= tiles):
            level = i - 1
            tile -= tiles
    scale = _scale_of_level(SCALES, level)
    height = tl.cast(_of_level(heights, level), tl.int32)
    width = tl.cast(_of_level(widths, level), tl.int32)
    begin = tile % tl.cdiv(width, BX) * BX
    line = tile // tl.cdiv(width, BX)
    y = line % height
    image = line // height
    x = begin + tl.arange(0, BX)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    y_bins = tl.arange(0, BPY)
    bins = tl.arange(0, BP)
    if CHANNELS_LAST:
        stride_c, stride_y, stride_x = 1, PX * C, C
    else:
        stride_c, stride_y, stride_x = PY * PX, PX, 1
    offsets = bins[:, None] * stride_x + c[None, :] * stride_c
    out_mask = (bins < PX)[:, None] & (c < C)[None, :]

    grad = tl.zeros([BX, BC], tl.float32)
    rough_scale = scale.to(tl.float32)
    for first in range(0, rois, BR):
        r = first + tl.arange(0, BR)
        row = rois_ptr + r * 5
        near = tl.load(levels_ptr + r, mask=r < rois, other=-1) == level
        near = near & (tl.load(row, mask=near, other=-1.0) == image)
        x0 = tl.load(row + 1, mask=near, other=0.0)
        y0 = tl.load(row + 2, mask=near, other=0.0)
        x1 = tl.load(row + 3, mask=near, other=0.0)
        y1 = tl.load(row + 4, mask=near, other=0.0)
        near = near & (tl.abs(x1 - x0) < float("inf")) & (tl.abs(y1 - y0) < float("inf"))
        # those that cannot touch these pixels: a RoI reaches 2 pixels further than its box
        near = near & (tl.minimum(x0, x1) * rough_scale <= begin + BX + MARGIN)
        near = near & (tl.maximum(x0, x1) * rough_scale >= begin - MARGIN)
        near = near & (tl.minimum(y0, y1) * rough_scale <= y + MARGIN)
        near = near & (tl.maximum(y0, y1) * rough_scale >= y - MARGIN)
        roi = tl.min(tl.where(near, r, rois), 0)
        while roi < rois:
            box = rois_ptr + roi * 5
            y_start, y_step, y_samples = _axis(
                tl.load(box + 2), tl.load(box + 4), scale, PY, RATIO, ALIGNED
            )
            y_weights = _weights(y_start, y_step, y_samples, y_bins, y, height)
            y_weights = tl.where(y_bins < PY, y_weights, 0.0)
            low = tl.min(tl.where(y_weights > 0.0, y_bins, PY), 0)
            high = tl.max(tl.where(y_weights > 0.0, y_bins, -1), 0)
            if low <= high:
                summed = tl.zeros([BP, BC], tl.float32)
                of_roi = grad_out_ptr + roi.to(tl.int64) * C * PY * PX
                for py in range(low, high + 1):
                    weight = tl.sum(tl.where(y_bins == py, y_weights, 0.0), 0)
                    bins_of_row = of_roi + py * stride_y + offsets
                    summed += weight * tl.load(bins_of_row, mask=out_mask, other=0.0).to(tl.float32)
                x_start, x_step, x_samples = _axis(
                    tl.load(box + 1), tl.load(box + 3), scale, PX, RATIO, ALIGNED
                )
                weights = _weights(x_start, x_step, x_samples, bins[None, :], x[:, None], width)
                grad += tl.dot(weights, summed, input_precision="ieee")
            roi = tl.min(tl.where(near & (r > roi), r, rois), 0)

    at = _of_level(grads, level) + image.to(tl.int64) * C * height * width
    if CHANNELS_LAST:
        at += (y * width + x)[:, None] * C + c[None, :]
    else:
        at += c[None, :] * (height * width) + (y * width + x)[:, None]
    mask = (x < width)[:, None] & (c < C)[None, :]
    tl.store(at, grad.to(grads[0].dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=CHANGING)
def levels_kernel(
    levels_ptr,
    first_bad_ptr,
    rois_ptr,
    rois,
    SIZES: tl.constexpr,
    CANONICAL_SIZE: tl.constexpr,
    BR: tl.constexpr,
):
    """Find the level of each RoI, and the first RoI that is not a box, in one program.

    Args:
        levels_ptr: The result of shape (R,).
        first_bad_ptr: The index of the first RoI that is not finite or inside out; R for none.
        rois_ptr: The RoIs of shape (R, 5).
        rois: The number of RoIs R.
        SIZES: The least size of a RoI on the second level, on the third and so on, relative to the
            canonical one. A size is the root of an area.
        CANONICAL_SIZE: The canonical size in pixels of the image.
        BR: The number of RoIs that are looked at at once.
    """
    first_bad = rois
    for first in range(0, rois, BR):
        r = first + tl.arange(0, BR)
        row = rois_ptr + r * 5
        width = tl.load(row + 3, mask=r < rois, other=0.0) - tl.load(
            row + 1, mask=r < rois, other=0.0
        )
        height = tl.load(row + 4, mask=r < rois, other=0.0) - tl.load(
            row + 2, mask=r < rois, other=0.0
        )
        # the operations of Detectron2's assign_boxes_to_levels, up to the logarithm
        size = tl.sqrt_rn((width * height).to(tl.float32))
        size = tl.div_rn(size, tl.full([BR], CANONICAL_SIZE, tl.float32)) + 1e-8
        level = tl.zeros([BR], tl.int64)
        for i in tl.static_range(len(SIZES)):
            level += (size >= SIZES[i]).to(tl.int64)
        tl.store(levels_ptr + r, level, mask=r < rois)
        inf = float("inf")
        box = (width >= 0.0) & (width < inf) & (height >= 0.0) & (height < inf)
        first_bad = tl.minimum(first_bad, tl.min(tl.where(box, rois, r), 0))
    tl.store(first_bad_ptr, first_bad)
