//! Numbers of pictures that drift when a model learns to please its rewards and nothing else.

use std::path::PathBuf;

use craft_store::{RgbImage, image};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Colour and detail of a picture, all 0..1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageStatistics {
    /// Mean of (max − min)/max over the channels of a pixel.
    pub saturation: f64,
    /// Mean luma (Rec. 601).
    pub brightness: f64,
    /// Standard deviation of luma.
    pub contrast: f64,
    /// Mean absolute luma difference of neighbours.
    pub sharpness: f64,
    /// Mean absolute Laplacian of luma, the energy of the finest detail.
    pub high_frequency: f64,
}

impl ImageStatistics {
    /// The fields' names.
    pub const NAMES: [&str; 5] =
        ["saturation", "brightness", "contrast", "sharpness", "high_frequency"];

    /// The fields with their names.
    pub fn named(&self) -> [(&'static str, f64); 5] {
        let values =
            [self.saturation, self.brightness, self.contrast, self.sharpness, self.high_frequency];
        std::array::from_fn(|i| (Self::NAMES[i], values[i]))
    }

    /// Measures a picture.
    pub fn of(picture: &RgbImage) -> Self {
        let (w, h) = (picture.width, picture.height);
        let mut saturation = 0.0;
        let luma: Vec<f64> = picture
            .data
            .chunks_exact(3)
            .map(|p| {
                let [r, g, b] = [p[0], p[1], p[2]].map(|v| f64::from(v) / 255.0);
                let (high, low) = (r.max(g).max(b), r.min(g).min(b));
                saturation += if high > 0.0 { (high - low) / high } else { 0.0 };
                0.299 * r + 0.587 * g + 0.114 * b
            })
            .collect();
        let n = luma.len().max(1) as f64;
        let (brightness, contrast) = craft_core::stats::mean_std(&luma);
        let at = |x: usize, y: usize| luma[y * w + x];
        let (mut edges, mut edge_count) = (0.0, 0usize);
        let (mut detail, mut detail_count) = (0.0, 0usize);
        for y in 0..h {
            for x in 0..w {
                if x + 1 < w {
                    edges += (at(x + 1, y) - at(x, y)).abs();
                    edge_count += 1;
                }
                if y + 1 < h {
                    edges += (at(x, y + 1) - at(x, y)).abs();
                    edge_count += 1;
                }
                if x > 0 && y > 0 && x + 1 < w && y + 1 < h {
                    let around = at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1);
                    detail += (4.0 * at(x, y) - around).abs() / 8.0;
                    detail_count += 1;
                }
            }
        }
        Self {
            saturation: saturation / n,
            brightness,
            contrast,
            sharpness: edges / edge_count.max(1) as f64,
            high_frequency: detail / detail_count.max(1) as f64,
        }
    }
}

impl ImageStatistics {
    fn add(&mut self, other: &Self) {
        self.saturation += other.saturation;
        self.brightness += other.brightness;
        self.contrast += other.contrast;
        self.sharpness += other.sharpness;
        self.high_frequency += other.high_frequency;
    }

    /// Sums over `n` pictures as means.
    fn over(&self, n: usize) -> Self {
        let n = n.max(1) as f64;
        Self {
            saturation: self.saturation / n,
            brightness: self.brightness / n,
            contrast: self.contrast / n,
            sharpness: self.sharpness / n,
            high_frequency: self.high_frequency / n,
        }
    }
}

/// Mean absolute pixel differences, 0..1, between the pictures of one prompt.
fn distances(group: &[RgbImage]) -> Vec<f64> {
    let mut distances = Vec::new();
    for (i, a) in group.iter().enumerate() {
        for b in &group[..i] {
            let sum: u64 = a.data.iter().zip(&b.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            distances.push(sum as f64 / (255.0 * a.data.len().max(1) as f64));
        }
    }
    distances
}

/// What pictures on disk have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Means over all of them.
    pub statistics: ImageStatistics,
    /// Mean absolute pixel difference, 0..1, between the pictures of one prompt; `None` for single
    /// pictures.
    pub diversity: Option<f64>,
}

/// What was found in the pictures of one prompt.
struct Group<T> {
    seen: Vec<(ImageStatistics, T)>,
    distances: Vec<f64>,
}

/// Prompts whose pictures are measured at a time, by all threads together.
const PART: usize = 64;

/// Numbers of pictures that are measured part by part.
#[derive(Clone, Debug, Default)]
pub struct Measuring {
    pictures: usize,
    sums: ImageStatistics,
    /// Of each pair of pictures of a prompt.
    distances: Vec<f64>,
}

impl Measuring {
    /// Measures pictures of prompts that have `samples` each, and asks `each` about every one of them by
    /// its place in `files`. A prompt's pictures are in memory at a time, for each thread. The order of
    /// pictures, not how they are cut into parts, decides the numbers.
    ///
    /// # Errors
    /// When a picture cannot be read.
    pub fn add<T: Send>(
        &mut self,
        files: &[PathBuf],
        samples: usize,
        each: impl Fn(usize, &RgbImage) -> T + Sync,
    ) -> Result<Vec<T>> {
        let samples = samples.max(1);
        let mut answers = Vec::with_capacity(files.len());
        for (part, files) in files.chunks(PART * samples).enumerate() {
            let first = part * PART * samples;
            let groups: Vec<Group<T>> = files
                .par_chunks(samples)
                .enumerate()
                .map(|(g, group)| {
                    let read = group.iter().map(|path| image::read(path));
                    let pictures = read.collect::<std::result::Result<Vec<_>, _>>()?;
                    let place = first + g * samples;
                    let of = |(i, p)| (ImageStatistics::of(p), each(place + i, p));
                    let seen = pictures.iter().enumerate().map(of).collect();
                    Ok(Group { seen, distances: distances(&pictures) })
                })
                .collect::<Result<_>>()?;
            for group in groups {
                self.distances.extend(group.distances);
                for (statistics, answer) in group.seen {
                    self.sums.add(&statistics);
                    self.pictures += 1;
                    answers.push(answer);
                }
            }
        }
        Ok(answers)
    }

    /// The numbers of all of them.
    pub fn numbers(&self) -> Numbers {
        let apart = &self.distances;
        let diversity = (!apart.is_empty()).then(|| craft_core::stats::mean(apart));
        Numbers { statistics: self.sums.over(self.pictures), diversity }
    }
}

/// Measures few enough pictures at once; see [`Measuring::add`].
///
/// # Errors
/// When a picture cannot be read.
pub fn measure<T: Send>(
    files: &[PathBuf],
    samples: usize,
    each: impl Fn(usize, &RgbImage) -> T + Sync,
) -> Result<(Numbers, Vec<T>)> {
    let mut measuring = Measuring::default();
    let answers = measuring.add(files, samples, each)?;
    Ok((measuring.numbers(), answers))
}
