//! From the planes of a JPEG to RGB: chroma at half the size is interpolated with weights 3/4 and 1/4
//! ("fancy upsampling"), other ratios repeat samples; YCbCr in fixed point of 16 bits. Rounded where
//! libjpeg-turbo rounds.

/// What the planes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Grey,
    Ycc,
    Rgb,
    Cmyk,
    Ycck,
}

/// The samples of one component.
pub(super) struct Plane {
    /// Samples across and down that belong to the picture.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Distance of rows.
    pub(super) stride: usize,
    pub(super) samples: Vec<u8>,
    /// How many pixels a sample is wide and high.
    pub(super) across: usize,
    pub(super) down: usize,
}

impl Plane {
    fn row(&self, y: usize) -> &[u8] {
        let start = y.min(self.height - 1) * self.stride;
        &self.samples[start..start + self.width]
    }

    /// One row of the picture's size.
    fn full_row(&self, y: usize, out: &mut [u8], sums: &mut Vec<i32>) {
        let near = self.row(y / self.down);
        // Rows beyond the edges are like the last one within.
        let next = || match y % 2 {
            0 => self.row((y / 2).saturating_sub(1)),
            _ => self.row(y / 2 + 1),
        };
        match (self.across, self.down) {
            (1, 1) => out.copy_from_slice(&near[..out.len()]),
            (2, 1) if self.width > 2 => {
                sums.clear();
                sums.extend(near.iter().map(|v| i32::from(*v)));
                interpolate(sums, 2, [1, 2], out);
            }
            (1, 2) => {
                let bias = 1 + (y as i32 & 1);
                for ((to, a), b) in out.iter_mut().zip(near).zip(next()) {
                    *to = ((3 * i32::from(*a) + i32::from(*b) + bias) >> 2) as u8;
                }
            }
            (2, 2) if self.width > 2 => {
                sums.clear();
                let sum = |(a, b): (&u8, &u8)| 3 * i32::from(*a) + i32::from(*b);
                sums.extend(near.iter().zip(next()).map(sum));
                interpolate(sums, 4, [8, 7], out);
            }
            (across, _) => {
                for (x, to) in out.iter_mut().enumerate() {
                    *to = near[x / across];
                }
            }
        }
    }
}

/// Two values for each one, `bits` of which are to be dropped; `bias` rounds left and right values.
fn interpolate(values: &[i32], bits: u32, bias: [i32; 2], out: &mut [u8]) {
    let last = values.len() - 1;
    for (x, to) in out.iter_mut().enumerate() {
        let i = x / 2;
        let beside = if x % 2 == 0 { i.saturating_sub(1) } else { (i + 1).min(last) };
        *to = ((3 * values[i] + values[beside] + bias[x % 2]) >> bits) as u8;
    }
}

/// Red, green and blue of Y, Cb, Cr.
fn rgb_of(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const fn fix(x: f64) -> i32 {
        (x * 65536.0 + 0.5) as i32
    }
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let green = -fix(0.344_14) * cb + HALF - fix(0.714_14) * cr;
    [y + ((fix(1.402) * cr + HALF) >> 16), y + (green >> 16), y + ((fix(1.772) * cb + HALF) >> 16)]
        .map(|v| v.clamp(0, 255) as u8)
}

/// RGB of inks that are stored as 255 minus their amount, as Pillow mixes them.
fn rgb_of_inks(stored: [u8; 3], black: u8) -> [u8; 3] {
    let light = u32::from(black);
    stored.map(|ink| {
        let product = u32::from(255 - ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// `height × width × 3` bytes. There must be as many planes as `space` has, large enough.
pub(super) fn rgb(planes: &[Plane], space: Space, width: usize, height: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(width * height * 3);
    let mut rows = vec![vec![0u8; width]; planes.len()];
    let mut sums = Vec::new();
    for y in 0..height {
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.full_row(y, row, &mut sums);
        }
        out.extend((0..width).flat_map(|x| {
            let at = |plane: usize| rows[plane][x];
            match space {
                Space::Grey => [at(0); 3],
                Space::Ycc => rgb_of(at(0), at(1), at(2)),
                Space::Rgb => [at(0), at(1), at(2)],
                Space::Cmyk => rgb_of_inks([at(0), at(1), at(2)], at(3)),
                Space::Ycck => {
                    let inks = rgb_of(at(0), at(1), at(2)).map(|v| 255 - v);
                    rgb_of_inks(inks, at(3))
                }
            }
        }));
    }
    out
}
