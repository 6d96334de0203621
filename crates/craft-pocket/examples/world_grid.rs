//! Writes a picture of pictures: plain captions, good words, bad words, and the quality axes one by one.
//!
//! `cargo run --release -p craft-pocket --example world_grid -- grid.png [seed]`; captions go to standard output.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use craft_pocket::world::{
    Example, Quality, SIDE, Scene, SceneKind, WorldRng, render, sample_training_example,
};

const COLUMNS: usize = 10;
const GAP: usize = 4;
const ZOOM: usize = 2;

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "world_grid.png".to_string());
    let seed = args.next().and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut rng = WorldRng::new(seed);
    let mut rows: Vec<Vec<Vec<u8>>> = Vec::new();
    let has = |caption: &str, words: &[&str]| words.iter().any(|w| caption.contains(w));
    let good =
        ["crisp", "vivid", "clean", "centred", "high quality", "professional", "best quality"];
    let bad = [
        "blurry",
        "faded",
        "messy",
        "off to the side",
        "low quality",
        "snapshot",
        "worst quality",
        "amateur",
    ];
    type Test<'a> = (&'a str, usize, Box<dyn Fn(&Example) -> bool + 'a>);
    let kinds: [Test; 3] = [
        (
            "plain",
            3,
            Box::new(|e| {
                !has(
                    &e.caption,
                    &[",", "picture", "photo", "image", "drawing", "illustration", "snapshot"],
                )
            }),
        ),
        ("good words", 2, Box::new(|e| has(&e.caption, &good) && !has(&e.caption, &bad))),
        ("bad words", 2, Box::new(|e| has(&e.caption, &bad) && !has(&e.caption, &good))),
    ];
    for (name, n, wanted) in &kinds {
        for _ in 0..*n {
            let mut row = Vec::new();
            while row.len() < COLUMNS {
                let e = sample_training_example(&mut rng);
                if wanted(&e) {
                    println!("{name}: {} {:.2?}", e.caption, e.quality.to_array());
                    row.push(e.render());
                }
            }
            rows.push(row);
        }
    }
    for axis in 0..5 {
        let kind = [
            SceneKind::Single,
            SceneKind::Pair,
            SceneKind::Count,
            SceneKind::Pair,
            SceneKind::Count,
        ][axis];
        let scenes = [Scene::random_of(kind, &mut rng), Scene::random_of(kind, &mut rng)];
        let row = (0..COLUMNS).map(|i| {
            let value = (i % 5) as f32 / 4.0;
            let mut q = [1.0; 4];
            if axis < 4 {
                q[axis] = value
            } else {
                q = [value; 4]
            }
            render(&scenes[i / 5], &Quality::from_array(q))
        });
        rows.push(row.collect());
    }
    let cell = SIDE * ZOOM + GAP;
    let (w, h) = (COLUMNS * cell + GAP, rows.len() * cell + GAP);
    let mut grid = image::RgbImage::from_pixel(w as u32, h as u32, image::Rgb([60, 90, 120]));
    for (r, row) in rows.iter().enumerate() {
        for (c, pixels) in row.iter().enumerate() {
            for y in 0..SIDE * ZOOM {
                for x in 0..SIDE * ZOOM {
                    let i = 3 * ((y / ZOOM) * SIDE + x / ZOOM);
                    let pixel = image::Rgb([pixels[i], pixels[i + 1], pixels[i + 2]]);
                    grid.put_pixel((GAP + c * cell + x) as u32, (GAP + r * cell + y) as u32, pixel);
                }
            }
        }
    }
    grid.save(&path).unwrap();
    println!("wrote {path}");
}
