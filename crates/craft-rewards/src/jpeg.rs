//! How many bytes a picture takes as a baseline JPEG, as libjpeg (and so Pillow) writes it: JFIF,
//! 4:2:0, the tables of ITU-T T.81 annex K, the accurate integer DCT. Nothing is written; bits are
//! counted.

use crate::reward::RgbImageRef;

/// Annex K.1, luminance, row by row.
#[rustfmt::skip]
const LUMA: [u32; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
/// Annex K.1, chrominance.
#[rustfmt::skip]
const CHROMA: [u32; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];
/// Places of the coefficients in the order in which they are coded.
#[rustfmt::skip]
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];
/// Annex K.3: how many codes there are of 1 to 16 bits, and their symbols.
const DC_LUMA: ([u8; 16], &[u8]) =
    ([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
const DC_CHROMA: ([u8; 16], &[u8]) =
    ([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
#[rustfmt::skip]
const AC_LUMA: ([u8; 16], &[u8]) = ([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d], &[
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
    0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
]);
#[rustfmt::skip]
const AC_CHROMA: ([u8; 16], &[u8]) = ([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77], &[
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
    0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
    0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
]);
/// Start of image, JFIF header, two quantisation tables, frame, four Huffman tables, scan, end.
const HEADERS: usize = 2 + 18 + 2 * 69 + 19 + 2 * 33 + 2 * 183 + 14 + 2;

/// Code and its length by symbol.
type Codes = [(u32, u32); 256];

fn codes((counts, symbols): ([u8; 16], &[u8])) -> Codes {
    let mut table = [(0, 0); 256];
    let (mut code, mut next) = (0, 0);
    for (bits, count) in (1..).zip(counts) {
        for _ in 0..count {
            table[usize::from(symbols[next])] = (code, bits);
            (code, next) = (code + 1, next + 1);
        }
        code <<= 1;
    }
    table
}

fn scaled(table: &[u32; 64], quality: u32) -> [i32; 64] {
    let percent = if quality < 50 { 5000 / quality.max(1) } else { 200 - 2 * quality.min(100) };
    table.map(|entry| ((entry * percent + 50) / 100).clamp(1, 255) as i32)
}

/// Counts the bytes of a stream of bits; a byte 255 is followed by a stuffed 0.
#[derive(Default)]
struct Bits {
    bytes: usize,
    held: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) {
        self.held = (self.held << bits) | u64::from(value);
        self.count += bits;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.held >> self.count) & 255;
            self.bytes += 1 + usize::from(byte == 255);
        }
        self.held &= (1 << self.count) - 1;
    }

    fn finish(mut self) -> usize {
        let padding = (8 - self.count) % 8;
        self.put((1 << padding) - 1, padding);
        self.bytes
    }
}

/// A component: its samples, padded to whole blocks, and its tables.
struct Plane {
    width: usize,
    samples: Vec<u8>,
    quantisation: [i32; 64],
    dc: Codes,
    ac: Codes,
    last_dc: i32,
}

impl Plane {
    /// A block beyond the picture: like the one before, without detail.
    fn code_nothing(&self, bits: &mut Bits) {
        for (code, length) in [self.dc[0], self.ac[0]] {
            bits.put(code, length);
        }
    }

    fn code_block(&mut self, left: usize, top: usize, bits: &mut Bits) {
        let mut block = [0i32; 64];
        for (y, row) in block.chunks_exact_mut(8).enumerate() {
            let start = (top + y) * self.width + left;
            for (to, from) in row.iter_mut().zip(&self.samples[start..start + 8]) {
                *to = i32::from(*from) - 128;
            }
        }
        transform(&mut block);
        let quantised = ZIGZAG.map(|place| {
            // The transform leaves values 8 times too large.
            let divisor = self.quantisation[place] * 8;
            let size = (block[place].abs() + divisor / 2) / divisor;
            size * block[place].signum()
        });
        let difference = quantised[0] - self.last_dc;
        self.last_dc = quantised[0];
        code_value(difference, 0, &self.dc, bits);
        let mut zeros = 0u8;
        for value in &quantised[1..] {
            if *value == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 {
                let (code, length) = self.ac[0xf0];
                bits.put(code, length);
                zeros -= 16;
            }
            code_value(*value, zeros << 4, &self.ac, bits);
            zeros = 0;
        }
        if zeros > 0 {
            let (code, length) = self.ac[0];
            bits.put(code, length);
        }
    }
}

/// Codes the number of bits of a value (with a run of zeros above it), then the bits.
fn code_value(value: i32, run: u8, codes: &Codes, bits: &mut Bits) {
    let size = 32 - value.unsigned_abs().leading_zeros();
    let (code, length) = codes[usize::from(run) + size as usize];
    bits.put(code, length);
    let low = if value < 0 { value - 1 } else { value };
    bits.put(low as u32 & ((1u32 << size) - 1), size);
}

/// The accurate integer DCT (Loeffler, Ligtenberg and Moschytz 1989, with 13-bit constants), 8 times too
/// large.
fn transform(block: &mut [i32; 64]) {
    for row in 0..8 {
        one_dimension(block, row * 8, 1, true);
    }
    for column in 0..8 {
        one_dimension(block, column, 8, false);
    }
}

fn one_dimension(block: &mut [i32; 64], start: usize, step: usize, first: bool) {
    const BITS: i32 = 13;
    const EXTRA: i32 = 2;
    let constant = |x: f64| (x * f64::from(1 << BITS) + 0.5) as i32;
    let descale = |x: i32, n: i32| (x + (1 << (n - 1))) >> n;
    let at = |i: usize| start + i * step;
    let v: [i32; 8] = std::array::from_fn(|i| block[at(i)]);
    let (s0, d0) = (v[0] + v[7], v[0] - v[7]);
    let (s1, d1) = (v[1] + v[6], v[1] - v[6]);
    let (s2, d2) = (v[2] + v[5], v[2] - v[5]);
    let (s3, d3) = (v[3] + v[4], v[3] - v[4]);
    let (e0, e3, e1, e2) = (s0 + s3, s0 - s3, s1 + s2, s1 - s2);
    let shift = if first { BITS - EXTRA } else { BITS + EXTRA };
    let even = |x: i32| if first { x << EXTRA } else { descale(x, EXTRA) };
    block[at(0)] = even(e0 + e1);
    block[at(4)] = even(e0 - e1);
    let z = (e2 + e3) * constant(0.541_196_100);
    block[at(2)] = descale(z + e3 * constant(0.765_366_865), shift);
    block[at(6)] = descale(z - e2 * constant(1.847_759_065), shift);
    let (z1, z2, z3, z4) = (d3 + d0, d2 + d1, d3 + d1, d2 + d0);
    let z5 = (z3 + z4) * constant(1.175_875_602);
    let (z1, z2) = (-z1 * constant(0.899_976_223), -z2 * constant(2.562_915_447));
    let z3 = z5 - z3 * constant(1.961_570_560);
    let z4 = z5 - z4 * constant(0.390_180_644);
    block[at(7)] = descale(d3 * constant(0.298_631_336) + z1 + z3, shift);
    block[at(5)] = descale(d2 * constant(2.053_119_869) + z2 + z4, shift);
    block[at(3)] = descale(d1 * constant(3.072_711_026) + z2 + z3, shift);
    block[at(1)] = descale(d0 * constant(1.501_321_110) + z1 + z4, shift);
}

/// Y, Cb, Cr of a pixel as libjpeg rounds them.
fn ycc(pixel: &[u8]) -> [u8; 3] {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
    let fix = |x: f64| (x * 65536.0 + 0.5) as i32;
    let offset = (128 << 16) + 32767;
    [
        (fix(0.299) * r + fix(0.587) * g + fix(0.114) * b + 32768) >> 16,
        (-fix(0.168_735_892) * r - fix(0.331_264_108) * g + fix(0.5) * b + offset) >> 16,
        (fix(0.5) * r - fix(0.418_687_589) * g - fix(0.081_312_411) * b + offset) >> 16,
    ]
    .map(|value| value as u8)
}

/// Size in bytes as a JPEG of a quality from 1 to 100. The picture must have been checked.
pub(crate) fn jpeg_bytes(image: RgbImageRef<'_>, quality: u32) -> usize {
    let (across, down) = (image.width.div_ceil(16), image.height.div_ceil(16));
    let (width, height) = (across * 16, down * 16);
    let mut full = [(); 3].map(|()| vec![0u8; width * height]);
    for y in 0..height {
        for x in 0..width {
            // Beyond the edges the last pixels repeat.
            let (px, py) = (x.min(image.width - 1), y.min(image.height - 1));
            let at = (py * image.width + px) * 3;
            let values = ycc(&image.pixels[at..at + 3]);
            for (plane, value) in full.iter_mut().zip(values) {
                plane[y * width + x] = value;
            }
        }
    }
    let half = |plane: &[u8]| -> Vec<u8> {
        let mut out = Vec::with_capacity(plane.len() / 4);
        for y in 0..height / 2 {
            // Below the picture the last row of averages repeats.
            let y = y.min(image.height.div_ceil(2) - 1);
            for x in 0..width / 2 {
                let at = 2 * y * width + 2 * x;
                let four = [at, at + 1, at + width, at + width + 1];
                let sum: usize = four.into_iter().map(|i| usize::from(plane[i])).sum();
                // The rounding alternates, so that it favours neither side.
                out.push(((sum + 1 + (x & 1)) >> 2) as u8);
            }
        }
        out
    };
    let [luma, cb, cr] = full;
    let plane = |samples: Vec<u8>, width, table: &[u32; 64], dc, ac| Plane {
        width,
        samples,
        quantisation: scaled(table, quality),
        dc: codes(dc),
        ac: codes(ac),
        last_dc: 0,
    };
    let mut y = plane(luma, width, &LUMA, DC_LUMA, AC_LUMA);
    let mut cb = plane(half(&cb), width / 2, &CHROMA, DC_CHROMA, AC_CHROMA);
    let mut cr = plane(half(&cr), width / 2, &CHROMA, DC_CHROMA, AC_CHROMA);
    let mut bits = Bits::default();
    for row in 0..down {
        for column in 0..across {
            for (dx, dy) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
                let (left, top) = (column * 16 + dx, row * 16 + dy);
                if left < image.width && top < image.height {
                    y.code_block(left, top, &mut bits);
                } else {
                    y.code_nothing(&mut bits);
                }
            }
            cb.code_block(column * 8, row * 8, &mut bits);
            cr.code_block(column * 8, row * 8, &mut bits);
        }
    }
    HEADERS + bits.finish()
}
