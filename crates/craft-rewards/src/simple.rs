//! Rewards without weights: compressibility and colourfulness.

use crate::jpeg::jpeg_bytes;
use crate::reward::{MissingReason, Reward, RgbImageRef, Score};

/// Quality at which DDPO compresses.
const QUALITY: u32 = 95;

/// Compressibility as in DDPO (`ddpo_pytorch/rewards.py`, `jpeg_compressibility`): minus the size of the
/// picture as a JPEG of quality 95 in kilobytes (1000 bytes), as Pillow writes it.
#[derive(Debug)]
pub struct JpegSize {
    name: String,
}

impl JpegSize {
    /// The reward under a name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl Reward for JpegSize {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "jpeg-size-1"
    }

    fn range(&self) -> [f64; 2] {
        [f64::NEG_INFINITY, 0.0]
    }

    fn score(&self, images: &[RgbImageRef<'_>], _: &[&str]) -> Vec<Result<Score, MissingReason>> {
        let score = |image: &RgbImageRef<'_>| {
            image.check()?;
            Score::new(-(jpeg_bytes(*image, QUALITY) as f64) / 1000.0)
        };
        images.iter().map(score).collect()
    }
}

/// Colourfulness of a picture (Hasler and Süsstrunk 2003, equation 8, on sRGB bytes):
/// σ + 0.3 μ of the opponent colours rg = R − G and yb = (R + G) / 2 − B.
#[derive(Debug)]
pub struct Colorfulness {
    name: String,
}

impl Colorfulness {
    /// The reward under a name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl Reward for Colorfulness {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        "colorfulness-1"
    }

    fn range(&self) -> [f64; 2] {
        [0.0, f64::INFINITY]
    }

    fn score(&self, images: &[RgbImageRef<'_>], _: &[&str]) -> Vec<Result<Score, MissingReason>> {
        let score = |image: &RgbImageRef<'_>| {
            image.check()?;
            // Sums of whole numbers: exact, whatever the order. yb is doubled to stay whole.
            let (mut rg, mut rg2, mut yb, mut yb2) = (0i64, 0i64, 0i64, 0i64);
            for pixel in image.pixels.chunks_exact(3) {
                let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i64::from);
                let (x, y) = (r - g, r + g - 2 * b);
                (rg, rg2, yb, yb2) = (rg + x, rg2 + x * x, yb + y, yb2 + y * y);
            }
            let n = (image.pixels.len() / 3) as f64;
            let mean = |sum: i64| sum as f64 / n;
            let (rg, yb) = (mean(rg), mean(yb) / 2.0);
            let variance = (mean(rg2) - rg * rg) + (mean(yb2) / 4.0 - yb * yb);
            Score::new(variance.max(0.0).sqrt() + 0.3 * (rg * rg + yb * yb).sqrt())
        };
        images.iter().map(score).collect()
    }
}
