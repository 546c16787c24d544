import struct
import zlib

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image, UnidentifiedImageError

from gn_det.config import ConfigError
from gn_det.data import DatasetError, read_image
from gn_det.data.read_image import apply_window, fits_8_bits

GREY = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
GREY[0, :2] = 0, 255
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8)
ALL_16 = (0, 65535)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return str(path)


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def write_tiff(path, array, sample_format, planar=1, order="<", deflate=False):
    """Write a TIFF by hand: ``sample_format`` is 1 unsigned, 2 signed, 3 float."""
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    bands = array.shape[2] if array.ndim == 3 and planar == 1 else 1
    bands = array.shape[0] if planar == 2 else bands
    height, width = array.shape[-2:] if planar == 2 else array.shape[:2]
    bits = array.dtype.itemsize * 8
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, 2 if bands == 3 else 1),
        (273, 4, 1, 8),
        (277, 3, 1, bands),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
        (284, 3, 1, planar),
        (339, 3, 1, sample_format),
    ]
    after = 8 + len(pixels)
    extra = b""
    if bands == 3:  # three values do not fit into an entry
        place = after + 2 + 12 * len(entries) + 4
        entries[2] = (258, 3, 3, place)
        extra = struct.pack(f"{order}3H", bits, bits, bits)
        if planar == 2:
            strip = len(pixels) // 3
            entries[5] = (273, 4, 3, place + 6)
            entries[8] = (279, 4, 3, place + 18)
            extra += struct.pack(f"{order}3I3I", 8, 8 + strip, 8 + 2 * strip, *[strip] * 3)
    if order == ">":  # a short number stands in the first two of four bytes
        entries = [(tag, t, n, v << 16 if (t, n) == (3, 1) else v) for tag, t, n, v in entries]
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, after)
    path.write_bytes(header + pixels + directory + struct.pack(f"{order}I", 0) + extra)
    return str(path)


@pytest.mark.parametrize("format", ["BGR", "RGB", "L", "YUV-BT.601", None])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_8_bits_are_read_as_detectron2_reads_them(tmp_path, mode, format):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).convert(mode).save(path)
    theirs = detection_utils.read_image(str(path), format)
    for window in [(), ALL_16, ("1%", "99%")]:
        ours = read_image(str(path), format, window)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(COLOUR).convert("P")
    path = tmp_path / "a.png"
    image.save(path, transparency=3)
    assert np.array_equal(read_image(path, "RGB"), detection_utils.read_image(path, "RGB"))


TURNED = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", TURNED)
def test_orientation_is_applied_once(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    turn = TURNED[orientation]
    save(path, COLOUR, exif=exif(orientation))
    assert np.array_equal(read_image(path, "RGB"), turn(COLOUR))
    save(path, GREY.astype(np.uint16) * 257, exif=exif(orientation))
    assert np.array_equal(read_image(path, "L", ALL_16)[:, :, 0], turn(GREY))


def test_16_bit_colours_are_turned_too(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), COLOUR[:, :, ::-1].astype(np.uint16) * 257)
    content = path.read_bytes()
    tag = b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(tag) - 4) + tag + struct.pack(">I", zlib.crc32(tag))
    path.write_bytes(content[:33] + chunk + content[33:])
    assert np.array_equal(read_image(path, "RGB", ALL_16), TURNED[6](COLOUR))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("format", ["BGR", "RGB", "L"])
def test_16_bits_are_the_8_bits_they_were_made_of(tmp_path, suffix, format):
    grey = save(tmp_path / f"g16.{suffix}", GREY.astype(np.uint16) * 257)
    eight = save(tmp_path / f"g8.{suffix}", GREY)
    assert np.array_equal(read_image(grey, format, ALL_16), read_image(eight, format))
    colour = str(tmp_path / f"c16.{suffix}")
    cv2.imwrite(colour, COLOUR[:, :, ::-1].astype(np.uint16) * 257)
    eight = save(tmp_path / f"c8.{suffix}", COLOUR)
    assert np.array_equal(read_image(colour, format, ALL_16), read_image(eight, format))


@pytest.mark.parametrize(
    ("dtype", "sample_format", "low", "step"),
    [
        (np.uint16, 1, 0, 257),
        (np.int16, 2, -32768, 257),
        (np.uint32, 1, 0, 2**24),  # above 2^31, where Pillow's own numbers are negative
        (np.int32, 2, -(2**31), 2**24),
        (np.int8, 2, -128, 1),
        (np.float32, 3, -1.5, 0.01),
    ],
)
def test_types_of_a_tiff(tmp_path, dtype, sample_format, low, step):
    values = (GREY.astype(np.float64) * step + low).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", values, sample_format)
    window = (low, low + 255 * step)
    assert np.array_equal(read_image(path, "L", window)[:, :, 0], GREY)
    with pytest.raises(DatasetError, match=r"a\.tif has more than 8 bits .*INPUT\.WINDOW"):
        read_image(path, "BGR")


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "sample_format"), [("u2", 1), ("i2", 2), ("u4", 1), ("i4", 2), ("f4", 3)]
)
def test_byte_orders_of_a_tiff(tmp_path, dtype, sample_format, order, deflate):
    """Pillow itself turns the bytes of a compressed one, signed or of 32 bits, a second time."""
    values = GREY.astype(dtype) * 100 - (5000 if sample_format > 1 else 0)
    path = write_tiff(tmp_path / "a.tif", values, sample_format, order=order, deflate=deflate)
    if (dtype, order) == ("u4", ">"):
        with pytest.raises(UnidentifiedImageError):
            read_image(path, "L", (0, 1))
        return
    low = values.min()
    assert np.array_equal(read_image(path, "L", (low, low + 25500))[:, :, 0], GREY)


def test_colours_of_a_tiff(tmp_path):
    deep = COLOUR.astype(np.uint16) * 257
    path = write_tiff(tmp_path / "a.tif", deep, 1)
    assert np.array_equal(read_image(path, "RGB", ALL_16), COLOUR)
    apart = write_tiff(tmp_path / "b.tif", deep.transpose(2, 0, 1).copy(), 1, planar=2)
    with pytest.raises(DatasetError, match=r"b\.tif cannot be read: .*with its channels together"):
        read_image(apart, "RGB", ALL_16)
    # Pillow reads 8 bits of that kind well
    apart = write_tiff(tmp_path / "c.tif", COLOUR.transpose(2, 0, 1).copy(), 1, planar=2)
    assert np.array_equal(read_image(apart, "RGB"), COLOUR)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg2000(tmp_path, channels):
    """Pillow keeps the upper 8 of 16 bits of colours, so that pictures of 12 bits are black."""
    path = str(tmp_path / "a.jp2")
    eight = np.random.default_rng(0).integers(0, 256, (64, 64, channels), dtype=np.uint8)
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    cv2.imwrite(path, eight[:, :, ::-1].astype(np.uint16) * 16, lossless)
    found = read_image(path, "RGB" if channels == 3 else "L", (0, 255 * 16))
    assert np.array_equal(found, eight)
    with pytest.raises(DatasetError, match=r"a\.jp2 has more than 8 bits"):
        read_image(path, "BGR")
    cv2.imwrite(path, eight[:, :, ::-1], lossless)
    assert np.array_equal(read_image(path, "RGB" if channels == 3 else "L"), eight)


def test_alpha_of_16_bits_is_left_out(tmp_path):
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.dstack([COLOUR[:, :, ::-1], GREY]).astype(np.uint16) * 257)
    assert np.array_equal(read_image(path, "RGB", ALL_16), COLOUR)


@pytest.mark.parametrize("kind", [b"P5", b"P6"])
def test_values_of_a_pgm_and_ppm_are_those_of_the_file(tmp_path, kind):
    eight = GREY if kind == b"P5" else COLOUR
    path = tmp_path / "a.ppm"
    path.write_bytes(kind + b"\n10 12\n4095\n" + (eight.astype(int) * 16).astype(">u2").tobytes())
    found = read_image(path, "L" if kind == b"P5" else "RGB", (0, 255 * 16))
    assert np.array_equal(found.squeeze(), eight)


def test_the_first_page_is_read(tmp_path):
    path = tmp_path / "a.tif"
    pages = [Image.fromarray((GREY + shift).astype(np.uint16) * 257) for shift in (0, 1, 2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert np.array_equal(read_image(path, "L", ALL_16)[:, :, 0], GREY)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_values_that_8_bits_hold_need_no_window(tmp_path, dtype):
    path = save(tmp_path / "a.tif", GREY.astype(dtype))
    assert np.array_equal(read_image(path, "L")[:, :, 0], GREY)
    assert np.array_equal(read_image(path, "L", (0, 510))[:, :, 0], np.rint(GREY / 2))
    path = save(tmp_path / "b.tif", GREY.astype(dtype) + dtype(1))  # up to 256
    with pytest.raises(DatasetError, match=r"b\.tif has more than 8 bits"):
        read_image(path, "L")


def test_fits_8_bits():
    assert fits_8_bits(np.array([0.0, 255.0]))
    for value in (-1, 256, 0.5, np.nan, np.inf):
        assert not fits_8_bits(np.array([1.0, value], np.float32))


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int16, np.int32, np.float32, np.float64])
def test_window(dtype):
    values = np.array([0, 100, 101, 150, 199, 200, 30000], dtype)
    # 255 * (value - 100) / 100: 2.55, 127.5 (to the even one), 252.45
    expected = [0, 0, 3, 128, 252, 255, 255]
    assert apply_window(values, [100, 200]).tolist() == expected
    assert apply_window(values.reshape(1, 7), [100, 200]).tolist() == [expected]
    assert apply_window(values[:0], [100, 200]).tolist() == []


def test_window_of_negative_values():
    values = np.array([-2000, -1000, 0, 1000, 2000], np.int16)
    assert apply_window(values, [-1000, 1000]).tolist() == [0, 0, 128, 255, 255]


def test_percentiles():
    values = np.arange(1001, dtype=np.uint16)  # the percentile p is 10 p
    assert np.array_equal(apply_window(values, ["10%", "90%"]), apply_window(values, [100, 900]))
    assert np.array_equal(apply_window(values, [100, "90%"]), apply_window(values, [100, 900]))
    assert np.array_equal(apply_window(values, ["0%", "100%"]), apply_window(values, [0, 1000]))


def test_nan_and_infinity():
    values = np.array([np.nan, -np.inf, 0, 1, 2, np.inf], np.float32)
    for window in ([0, 2], ["0%", "100%"]):
        assert apply_window(values, window).tolist() == [0, 0, 0, 128, 255, 255]
    nothing = np.full(3, np.nan, np.float32)
    assert apply_window(nothing, ["1%", "99%"]).tolist() == [0, 0, 0]
    assert apply_window(nothing, [0, 1]).tolist() == [0, 0, 0]


def test_an_image_of_one_value():
    assert apply_window(np.full(3, 700, np.uint16), ["1%", "99%"]).tolist() == [0, 0, 0]
    # a few bright pixels on black: both percentiles are 0
    values = np.array([0] * 999 + [500], np.uint16)
    assert apply_window(values, ["1%", "99%"])[-2:].tolist() == [0, 255]


def test_a_window_that_is_none():
    with pytest.raises(ConfigError, match="INPUT.WINDOW is"):
        apply_window(GREY, [5, 1])


def test_no_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(str(tmp_path / "none.png"), "RGB", ALL_16)


def test_a_bitmap_of_5_6_and_5_bits_has_8_bits(tmp_path):
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks
    path = tmp_path / "a.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 18 + len(head), 0, 0, 14 + len(head)) + head)
    path.write_bytes(path.read_bytes() + struct.pack("<2H", 0xF800, 0x1F))
    assert read_image(str(path), "RGB").tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_formats_that_pillow_reads_wrong(tmp_path, channels):
    """Pillow takes the upper half of SGI's 16 bits, and mixes up the bytes of FITS."""
    head = struct.pack(">HBBHHHHII", 474, 0, 2, 2 if channels == 1 else 3, 3, 2, channels, 0, 65535)
    sgi = tmp_path / "a.sgi"
    sgi.write_bytes(head.ljust(512, b"\0") + bytes(2 * 3 * 2 * channels))
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16"]
    cards += ["NAXIS   =                    2", f"NAXIS1  = {3:20}", f"NAXIS2  = {2:20}", "END"]
    fits = tmp_path / "a.fits"
    fits.write_bytes("".join(f"{card:80}" for card in cards).ljust(2880).encode() + bytes(2880))
    for path in (sgi, fits):
        with pytest.raises(DatasetError, match="with 8 bits alone. Write it as a PNG or TIFF"):
            read_image(str(path), "L", (0, 4095))
