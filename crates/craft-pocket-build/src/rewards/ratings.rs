//! Ratings and choices of simulated people, and what is learned from them.

use burn::tensor::Tensor;
use craft_core::rng::Stream;
use craft_pocket::world::{Annotators, Population, WorldRng};
use rayon::prelude::*;

use crate::vae::Vae;
use crate::{BuildError, Options};

/// Rated pictures of a training step.
pub(super) const RATED: usize = 64;
/// One in so many pictures is seen through the autoencoder, as generated pictures are.
pub(super) const ROUND_TRIP: usize = 4;

/// Choices between two pictures.
#[derive(Default)]
pub(super) struct Pairs {
    pub(super) texts: Vec<String>,
    pub(super) a: Vec<Vec<u8>>,
    pub(super) b: Vec<Vec<u8>>,
    /// 1 where a was chosen.
    pub(super) chosen: Vec<f32>,
    /// 1 where a is worth more to the population as a whole.
    pub(super) truth: Vec<f32>,
}

pub(super) fn pairs(o: &Options, vae: &Vae, people: &Annotators, stream: u64, n: usize) -> Pairs {
    let drawn: Vec<_> = (0..n)
        .into_par_iter()
        .map(|i| {
            let seed = o.seed ^ (0x9a15 + people.population() as u64 * 101 + stream * 7919);
            let pair = people.sample_pair(&mut WorldRng::stream(seed, i as u64));
            (pair.a.render(), pair.b.render(), pair)
        })
        .collect();
    let mut out = Pairs::default();
    for (a, b, pair) in drawn {
        out.texts.push(pair.prompt.text);
        out.a.push(a);
        out.b.push(b);
        out.chosen.push(f32::from(u8::from(pair.a_preferred)));
        out.truth.push(f32::from(u8::from(pair.margin > 0.0)));
    }
    let seen = n / ROUND_TRIP;
    for side in [&mut out.a, &mut out.b] {
        let through = vae.round_trip(&side[..seen]);
        side[..seen].clone_from_slice(&through);
    }
    out
}

/// Values with mean 0 and standard deviation 1.
pub(super) fn standardised(values: &[f32]) -> Vec<f32> {
    let wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    let (mean, std) = craft_core::stats::mean_std(&wide);
    wide.iter().map(|v| ((v - mean) / std.max(1e-6)) as f32).collect()
}

/// Rated pictures, the two of a sitting side by side.
#[derive(Default)]
pub(super) struct Rated {
    pub(super) texts: Vec<String>,
    pub(super) pictures: Vec<Vec<u8>>,
    pub(super) ratings: Vec<f32>,
    pub(super) consensus: Vec<f32>,
}

pub(super) fn rated(
    o: &Options,
    vae: &Vae,
    population: Population,
    stream: u64,
    n: usize,
) -> Result<Rated, BuildError> {
    let people = Annotators::new(population);
    let sittings: Vec<usize> = (0..n / 2).collect();
    let mut out = Rated::default();
    for part in sittings.chunks(512) {
        o.check()?;
        let drawn: Vec<_> = part
            .par_iter()
            .flat_map_iter(|i| {
                let seed = o.seed ^ (0xae5 + population as u64 * 131 + stream * 7919);
                let sitting = people.sample_sitting(&mut WorldRng::stream(seed, *i as u64));
                sitting.map(|r| (r.prompt.text, r.picture.render(), r.rating, r.consensus))
            })
            .collect();
        for (text, picture, rating, consensus) in drawn {
            out.texts.push(text);
            out.pictures.push(picture);
            out.ratings.push(rating);
            out.consensus.push(consensus);
        }
    }
    for part in out.pictures[..n / ROUND_TRIP].chunks_mut(256) {
        o.check()?;
        let through = vae.round_trip(part);
        part.clone_from_slice(&through);
    }
    Ok(out)
}

/// The rows of a training step: both pictures of [`RATED`] / 2 sittings.
pub(super) fn sittings(stream: &mut Stream, n: usize) -> Vec<usize> {
    let mut pair = || {
        let first = 2 * stream.index(n / 2);
        [first, first + 1]
    };
    (0..RATED / 2).flat_map(|_| pair()).collect()
}

/// Squared error of ratings, and of their differences within a sitting, in which the mood of the individual
/// cancels. `error`: `[2 · sittings, 1]`.
pub(super) fn rating_loss(error: Tensor<2>) -> Tensor<1> {
    let [n, _] = error.dims();
    let both = error.clone().reshape([n / 2, 2]);
    let apart = both.clone().narrow(1, 0, 1) - both.narrow(1, 1, 1);
    error.powi_scalar(2).mean() + apart.powi_scalar(2).mean() * 0.5
}

/// Pairs of a picture with the number of objects that its prompt names and one with another number, which
/// differ in nothing else; all seen through the autoencoder.
pub(super) fn miscounted(o: &Options, vae: &Vae, people: &Annotators, n: usize) -> Pairs {
    let drawn: Vec<_> = (0..n)
        .into_par_iter()
        .map(|i| {
            let seed = o.seed ^ (0xc07 + people.population() as u64 * 151);
            let (prompt, right, wrong) =
                people.sample_miscounted(&mut WorldRng::stream(seed, i as u64));
            (prompt.text, right.render(), wrong.render())
        })
        .collect();
    let mut out = Pairs { chosen: vec![1.0; n], truth: vec![1.0; n], ..Pairs::default() };
    for (text, right, wrong) in drawn {
        out.texts.push(text);
        out.a.push(right);
        out.b.push(wrong);
    }
    out.a = vae.round_trip(&out.a);
    out.b = vae.round_trip(&out.b);
    out
}
