//! Measures the checker on renderings of known scenes and prints the tables of CHECKER.md.
//!
//! `cargo run --release -p craft-pocket --example checker_accuracy -- [scenes per row]`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use craft_pocket::world::{
    FactKind, PocketPrompt, Quality, SIDE, Scene, WorldRng, check, judge_scene, quality::AXES,
    render,
};
use rayon::prelude::*;

/// Right and all answers per kind of fact; pictures with all answers right; pictures.
#[derive(Default, Clone, Copy)]
struct Tally {
    right: [usize; 6],
    all: [usize; 6],
    whole: usize,
    pictures: usize,
}

impl Tally {
    fn add(mut self, other: Self) -> Self {
        for k in 0..6 {
            self.right[k] += other.right[k];
            self.all[k] += other.all[k];
        }
        self.whole += other.whole;
        self.pictures += other.pictures;
        self
    }
}

/// Noise on an image: `rms` grey levels a channel, smoothed over `3^passes` pixels' neighbourhoods.
#[derive(Clone, Copy)]
struct Noise {
    rms: f32,
    passes: usize,
}

const SILENCE: Noise = Noise { rms: 0.0, passes: 0 };

fn spoil(image: &mut [u8], noise: Noise, rng: &mut WorldRng) {
    if noise.rms == 0.0 {
        return;
    }
    for c in 0..3 {
        let mut field: Vec<f32> = (0..SIDE * SIDE).map(|_| rng.normal()).collect();
        for _ in 0..noise.passes {
            for stride in [1, SIDE] {
                let old = field.clone();
                let at = |i: usize| old[i % (SIDE * SIDE)];
                for (i, f) in field.iter_mut().enumerate() {
                    *f = 0.25 * at(i + SIDE * SIDE - stride) + 0.5 * at(i) + 0.25 * at(i + stride);
                }
            }
        }
        let rms = (field.iter().map(|f| f * f).sum::<f32>() / field.len() as f32).sqrt().max(1e-6);
        for (i, f) in field.iter().enumerate() {
            let v = f32::from(image[3 * i + c]) + noise.rms * f / rms;
            image[3 * i + c] = v.round().clamp(0.0, 255.0) as u8;
        }
    }
}

fn measure(
    n: u64,
    seed: u64,
    truthful: bool,
    noise: Noise,
    quality: impl Fn(&mut WorldRng) -> Quality + Sync,
) -> Tally {
    let one = |i: u64| {
        let mut rng = WorldRng::stream(seed, i);
        let scene = Scene::random(&mut rng);
        let prompt = if truthful {
            PocketPrompt::about(&scene, &mut rng)
        } else {
            PocketPrompt::random(&mut rng)
        };
        let mut image = render(&scene, &quality(&mut rng));
        spoil(&mut image, noise, &mut rng);
        let mut tally = Tally { pictures: 1, whole: 1, ..Tally::default() };
        for (result, truth) in
            check(&image, &prompt.facts).iter().zip(judge_scene(&scene, &prompt.facts))
        {
            let ok = result.passed == truth;
            tally.right[result.kind as usize] += usize::from(ok);
            tally.all[result.kind as usize] += 1;
            tally.whole &= usize::from(ok);
        }
        tally
    };
    (0..n).into_par_iter().map(one).reduce(Tally::default, Tally::add)
}

fn row(name: &str, t: Tally) {
    let cells: Vec<String> =
        (0..6).map(|k| format!("{:.4}", t.right[k] as f64 / t.all[k].max(1) as f64)).collect();
    println!("| {name} | {} | {:.4} |", cells.join(" | "), t.whole as f64 / t.pictures as f64);
}

fn header(first: &str) {
    let kinds: Vec<&str> = FactKind::ALL.iter().map(|k| k.word()).collect();
    println!("| {first} | {} | all right |\n|---|{}---|", kinds.join(" | "), "---|".repeat(6));
}

fn main() {
    let n = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(4000);
    header("all four axes at");
    for q in [1.0, 0.75, 0.5, 0.25, 0.0] {
        row(&format!("{q}"), measure(n, 101, true, SILENCE, |_| Quality::even(q)));
    }
    println!();
    header("one axis at 0, others 1");
    for axis in 0..4 {
        let mut axes = [1.0; 4];
        axes[axis] = 0.0;
        row(AXES[axis], measure(n, 102, true, SILENCE, |_| Quality::from_array(axes)));
    }
    println!();
    header("claims of a random prompt, mostly false");
    row("quality 1", measure(n, 103, false, SILENCE, |_| Quality::BEST));
    row("broad quality", measure(n, 104, false, SILENCE, Quality::sample_broad));
    println!();
    header("true claims");
    row("broad quality", measure(n, 105, true, SILENCE, Quality::sample_broad));
    println!();
    header("true claims, broad quality, noise of rms");
    for (name, passes) in [("independent pixels", 0), ("smooth over about 3 pixels", 4)] {
        for rms in [4.0, 8.0, 12.0, 16.0] {
            let noise = Noise { rms, passes };
            row(&format!("{rms}, {name}"), measure(n, 106, true, noise, Quality::sample_broad));
        }
    }
    println!();
    header("true claims, quality 0.9, noise of rms");
    for (name, passes) in [("independent pixels", 0), ("smooth over about 3 pixels", 4)] {
        for rms in [8.0, 16.0, 24.0] {
            let noise = Noise { rms, passes };
            row(&format!("{rms}, {name}"), measure(n, 107, true, noise, |_| Quality::even(0.9)));
        }
    }
    println!();
    let mut rng = WorldRng::new(7);
    let scenes: Vec<(Scene, Quality)> =
        (0..500).map(|_| (Scene::random(&mut rng), Quality::sample_broad(&mut rng))).collect();
    let start = Instant::now();
    let images: Vec<Vec<u8>> = scenes.iter().map(|(s, q)| render(s, q)).collect();
    let rendered = start.elapsed().as_secs_f64() / 500.0;
    let start = Instant::now();
    let passed: usize = images.iter().map(|i| check(i, &[]).len()).sum();
    let checked = start.elapsed().as_secs_f64() / 500.0 + passed as f64;
    println!("one thread: {:.2} ms a rendering, {:.2} ms a check", 1e3 * rendered, 1e3 * checked);
}
