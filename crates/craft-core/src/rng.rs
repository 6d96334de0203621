//! Named random number streams: every random number of a run is a function of the seed and of
//! what it is for, so that no result depends on batch size, number of workers or order.
//!
//! A [`Key`] names a use; [`Key::stream`] turns it into a [`Stream`] of ChaCha12 seeded with
//! SHA-256 of the key's bytes:
//!
//! ```text
//! "craft-rng-v1\0"  seed as u64 LE
//! 'S' + u32 LE length + UTF-8    stage, if set
//! 'P' + u32 LE length + UTF-8    prompt id, if set
//! 'V' + u64 LE                   variant, if set
//! 'N' + u64 LE                   sample (noise) index, if set
//! 'T' + u64 LE                   step, if set
//! ```
//!
//! in this order, whatever the order of the calls that set them. Logarithm, sine and cosine come
//! from the `libm` crate, not from the operating system, so that streams agree between platforms.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Infallible, Rng, SeedableRng, TryRng};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a stream of random numbers is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    seed: u64,
    stage: Option<String>,
    prompt: Option<String>,
    variant: Option<u64>,
    sample: Option<u64>,
    step: Option<u64>,
}

impl Key {
    /// The key of a whole run.
    pub fn new(seed: u64) -> Self {
        Self { seed, stage: None, prompt: None, variant: None, sample: None, step: None }
    }

    /// For a stage, or a named purpose within one.
    #[must_use]
    pub fn stage(mut self, stage: &str) -> Self {
        self.stage = Some(stage.to_owned());
        self
    }

    /// For a prompt.
    #[must_use]
    pub fn prompt(mut self, prompt: impl AsRef<str>) -> Self {
        self.prompt = Some(prompt.as_ref().to_owned());
        self
    }

    /// For a wording of the prompt.
    #[must_use]
    pub fn variant(mut self, variant: u64) -> Self {
        self.variant = Some(variant);
        self
    }

    /// For a noise index.
    #[must_use]
    pub fn sample(mut self, sample: u64) -> Self {
        self.sample = Some(sample);
        self
    }

    /// For a step of sampling or training.
    #[must_use]
    pub fn step(mut self, step: u64) -> Self {
        self.step = Some(step);
        self
    }

    /// The bytes that are hashed; see the module for their layout.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = b"craft-rng-v1\0".to_vec();
        bytes.extend(self.seed.to_le_bytes());
        for (tag, text) in [(b'S', &self.stage), (b'P', &self.prompt)] {
            if let Some(text) = text {
                bytes.push(tag);
                bytes.extend((text.len() as u32).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
        }
        for (tag, number) in [(b'V', self.variant), (b'N', self.sample), (b'T', self.step)] {
            if let Some(number) = number {
                bytes.push(tag);
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes
    }

    /// The stream that belongs to this key.
    pub fn stream(&self) -> Stream {
        let digest: [u8; 32] = Sha256::digest(self.canonical_bytes()).into();
        Stream(ChaCha12Rng::from_seed(digest))
    }

    /// The bare generator, for code that wants the traits of `rand_core`.
    pub fn rng(&self) -> ChaCha12Rng {
        self.stream().0
    }

    /// `n` standard normal numbers from the start of the stream; see [`Stream::standard_normals`].
    pub fn standard_normals(&self, n: usize) -> Vec<f32> {
        self.stream().standard_normals(n)
    }
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream(ChaCha12Rng);

impl TryRng for Stream {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.try_next_u32()
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.try_next_u64()
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(dst)
    }
}

impl Stream {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in 0 ≤ u < 1: the upper 53 bits of a word.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `low..high`; `low` if the range is empty.
    pub fn uniform_in(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// A uniform integer in `0..bound`, without bias; 0 if `bound` is 0 or 1.
    ///
    /// The high word of bits × bound, with the few bit patterns rejected that would make some
    /// results likelier than others (Lemire, "Fast random integer generation in an interval").
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound < 2 {
            return 0;
        }
        let reject_under = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= reject_under {
                return (product >> 64) as u64;
            }
        }
    }

    /// A uniform index into something of `len` elements; 0 if it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A random element; `None` of an empty slice.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            return None;
        }
        items.get(self.index(items.len()))
    }

    /// Two independent standard normal numbers by the Box-Muller transform in f64.
    fn normal_pair(&mut self) -> (f64, f64) {
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        let (sin, cos) = libm::sincos(2.0 * std::f64::consts::PI * self.uniform());
        (radius * cos, radius * sin)
    }

    /// `n` standard normal numbers.
    ///
    /// Box-Muller in f64, rounded to f32: each pair of uniform numbers gives the cosine and then
    /// the sine branch, and an odd `n` discards the last sine. From a fresh stream the numbers are
    /// a prefix of those for any larger `n`. No value exceeds 8.6 in size.
    pub fn standard_normals(&mut self, n: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(n + 1);
        while values.len() < n {
            let (a, b) = self.normal_pair();
            values.push(a as f32);
            values.push(b as f32);
        }
        values.truncate(n);
        values
    }

    /// One standard normal number in f64; the second of its pair is discarded.
    pub fn standard_normal(&mut self) -> f64 {
        self.normal_pair().0
    }

    /// Fisher-Yates shuffle: every order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    /// `k` different numbers of `0..n` in random order (all `n` of them if `k > n`); every
    /// ordered choice equally likely. Memory and time grow with `k`, not `n`.
    pub fn sample_without_replacement(&mut self, n: usize, k: usize) -> Vec<usize> {
        // The first k steps of a Fisher-Yates shuffle of 0..n, with only moved places stored.
        let mut moved: BTreeMap<usize, usize> = BTreeMap::new();
        (0..k.min(n))
            .map(|place| {
                let other = place + self.index(n - place);
                let here = moved.get(&place).copied().unwrap_or(place);
                let drawn = moved.insert(other, here).unwrap_or(other);
                if other == place { here } else { drawn }
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new(7).stage("generate").prompt("p00012").sample(3).step(7)
    }

    #[test]
    fn canonical_bytes_are_as_documented() {
        let mut expected = b"craft-rng-v1\0".to_vec();
        expected.extend(7u64.to_le_bytes());
        expected.extend(b"S\x08\0\0\0generateP\x06\0\0\0p00012");
        expected.extend(b"N\x03\0\0\0\0\0\0\0T\x07\0\0\0\0\0\0\0");
        assert_eq!(key().canonical_bytes(), expected);
    }

    #[test]
    fn order_of_naming_does_not_matter_and_every_part_does() {
        let same = Key::new(7).step(7).sample(3).prompt("p00012").stage("generate");
        assert_eq!(same.stream().bits(), key().stream().bits());
        let others = [
            key().step(8),
            key().sample(4),
            key().prompt("p00013"),
            key().stage("train"),
            key().variant(0),
            Key::new(8).stage("generate").prompt("p00012").sample(3).step(7),
            Key::new(7).stage("generate").prompt("p00012").sample(7).step(3),
        ];
        for other in others {
            assert_ne!(other.stream().bits(), key().stream().bits(), "{other:?}");
        }
    }

    #[test]
    fn normals_have_the_moments_of_a_standard_normal_and_are_prefixes() {
        let n = 200_000;
        let x: Vec<f64> = key().standard_normals(n).into_iter().map(f64::from).collect();
        let moment = |k: i32| x.iter().map(|v| v.powi(k)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.015, "{}", moment(2));
        assert!(moment(3).abs() < 0.04, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.12, "{}", moment(4));
        assert_eq!(key().standard_normals(5)[..], key().standard_normals(9)[..5]);
        assert!(key().standard_normals(0).is_empty());
    }

    #[test]
    fn bounded_integers_are_uniform() {
        let mut stream = key().stream();
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[stream.below(6) as usize] += 1;
        }
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 20.5, "chi squared {chi2} with 5 degrees of freedom"); // p = 0.001
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
        let huge = u64::MAX / 2 + 2; // rejects almost half of the words
        assert!((0..1000).all(|_| stream.below(huge) < huge));
    }

    #[test]
    fn samples_without_replacement_are_distinct_and_uniform() {
        let mut stream = key().stream();
        let mut counts = [[0u32; 5]; 3];
        for _ in 0..20_000 {
            let drawn = stream.sample_without_replacement(5, 3);
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 3);
            for (place, &value) in drawn.iter().enumerate() {
                counts[place][value] += 1;
            }
        }
        for place in counts {
            for count in place {
                assert!((f64::from(count) - 4000.0).abs() < 250.0, "{counts:?}");
            }
        }
        let mut all = stream.sample_without_replacement(4, 9);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    }

    #[test]
    fn shuffles_reach_every_order_alike() {
        let mut stream = key().stream();
        let mut counts: BTreeMap<[u8; 3], u32> = BTreeMap::new();
        for _ in 0..12_000 {
            let mut items = [0u8, 1, 2];
            stream.shuffle(&mut items);
            *counts.entry(items).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&c| c.abs_diff(2000) < 180), "{counts:?}");
    }

    /// Computed by an independent implementation of SHA-256, ChaCha12 and Box-Muller in Python.
    /// Changing these numbers changes every run: raise the version in the key's bytes instead.
    #[test]
    fn golden_streams() {
        let mut stream = key().stream();
        assert_eq!([stream.bits(), stream.bits()], GOLDEN_BITS);
        assert_eq!(key().standard_normals(4), GOLDEN_NORMALS);
        assert_eq!(key().stream().sample_without_replacement(100, 5), GOLDEN_SAMPLE);
    }
    const GOLDEN_BITS: [u64; 2] = [14_213_817_007_950_330_086, 5_339_620_600_501_918_038];
    const GOLDEN_NORMALS: [f32; 4] = [-0.421_077_07, 1.663_334_7, 0.205_755_03, 0.892_794_6];
    const GOLDEN_SAMPLE: [usize; 5] = [77, 29, 35, 23, 31];
}
