//! Which outline fits a blob best: soft intersection over union with blurred, rotated, scaled templates.

use std::sync::OnceLock;

use super::SIDE;
use super::quality::Quality;
use super::scene::{Background, Colour, Look, Object, Scene, SceneKind, Shape, SizeClass};
use super::segment::{Blob, segment};

/// Samples a side of a template.
const GRID: usize = 20;
/// Half width of a template in units of the radius of the disc of equal area.
const REACH: f32 = 1.75;
const ANGLES: [f32; 5] = [-0.2, -0.1, 0.0, 0.1, 0.2];
/// Radius in pixels and sharpness of the templates: blur of 0 to .3 radii.
const LEVELS: [(f32, f32); 6] =
    [(12.0, 1.0), (12.0, 0.5), (7.0, 0.6), (7.0, 0.3), (7.0, 0.0), (6.0, 0.0)];

/// Cover of a blob as [`segment`] reports it for a rendering, in units of its own size.
struct Template {
    shape: Shape,
    cover: Vec<f32>,
    /// Whether it takes part in the search for a place.
    coarse: bool,
    /// Radius of the object over the radius of the disc of the blob's area.
    radius: f32,
}

/// The best fit of a blob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    pub(super) shape: Shape,
    /// Radius in pixels, in the sense of [`Object::radius`](super::Object::radius).
    pub(super) radius: f32,
    pub(super) x: f32,
    pub(super) y: f32,
    /// Soft intersection over union, 0..1.
    pub(super) overlap: f32,
}

fn templates() -> &'static [Template] {
    static ALL: OnceLock<Vec<Template>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        for shape in Shape::ALL {
            let angles = if shape == Shape::Circle { &[0.0][..] } else { &ANGLES[..] };
            for angle in angles {
                let drawn = LEVELS
                    .iter()
                    .map(|(radius, sharpness)| draw(shape, *angle, *radius, *sharpness));
                all.extend(drawn.enumerate().filter_map(|(level, t)| {
                    Some(Template { coarse: *angle == 0.0 && level % 2 == 1, ..t? })
                }));
            }
        }
        all
    })
}

/// A template goes the way of every blob: drawn, blurred, segmented, sampled.
fn draw(shape: Shape, angle: f32, radius: f32, sharpness: f32) -> Option<Template> {
    let middle = SIDE as f32 / 2.0;
    let look = Look { shape, colour: Colour::Red, size: SizeClass::Large };
    let object = Object { look, x: middle, y: middle, radius, angle, rgb: [255.0, 0.0, 0.0] };
    let scene = Scene {
        kind: SceneKind::Single,
        background: Background::Grey,
        objects: vec![object],
        relation: None,
        seed: 0,
    };
    let image = super::render(&scene, &Quality { sharpness, ..Quality::BEST });
    let blob = segment(&image).blobs.into_iter().next()?;
    let equal = equal_radius(&blob);
    let mut patch = vec![None; GRID * GRID];
    sample(&blob, blob.x, blob.y, equal, &mut patch);
    let cover = patch.into_iter().map(Option::unwrap_or_default).collect();
    Some(Template { shape, cover, coarse: false, radius: radius / equal })
}

/// Radius of the disc of the blob's area.
fn equal_radius(blob: &Blob) -> f32 {
    (blob.area / std::f32::consts::PI).sqrt().max(1.0)
}

/// Coordinate of a sample in template units.
fn node(i: usize) -> f32 {
    REACH * (2.0 * (i as f32 + 0.5) / GRID as f32 - 1.0)
}

/// Finds the best outline. A blob cut off by the border is compared where it can be seen, with centres
/// out towards the border and larger radii tried too.
pub(super) fn fit(blob: &Blob) -> Fit {
    let equal = equal_radius(blob);
    let out = |low: bool, high: bool| -> Vec<f32> {
        let steps = [0.0, 0.15, 0.3, 0.45, 0.6];
        match (low, high) {
            (true, false) => steps.iter().map(|s| -s * equal).collect(),
            (false, true) => steps.iter().map(|s| s * equal).collect(),
            _ => vec![0.0],
        }
    };
    let cut = blob.cut.contains(&true);
    let scales: &[f32] = if cut { &[0.95, 1.03, 1.12, 1.22, 1.34] } else { &[1.0] };
    let mut best: [Option<(Fit, f32)>; 4] = [None; 4];
    let mut patch = vec![None; GRID * GRID];
    let mut attempt =
        |x: f32, y: f32, equal: f32, only: Option<Shape>, best: &mut [Option<(Fit, f32)>; 4]| {
            sample(blob, x, y, equal, &mut patch);
            let seen = patch.iter().flatten().sum::<f32>();
            // What lies outside of the templates' square counts against the fit.
            let unit = (2.0 * REACH * equal / GRID as f32).powi(2);
            let missed = (blob.area / unit - seen).max(0.0);
            for template in
                templates().iter().filter(|t| only.map_or(t.coarse || !cut, |s| s == t.shape))
            {
                let overlap = compare(&patch, &template.cover, missed);
                let place = &mut best[template.shape as usize];
                if place.is_none_or(|(b, _)| overlap > b.overlap) {
                    let radius = equal * template.radius;
                    *place = Some((Fit { shape: template.shape, radius, x, y, overlap }, equal));
                }
            }
        };
    for dx in out(blob.cut[0], blob.cut[2]) {
        for dy in out(blob.cut[1], blob.cut[3]) {
            for scale in scales {
                attempt(blob.x + dx, blob.y + dy, scale * equal, None, &mut best);
            }
        }
    }
    // A finer look around the best of every outline.
    let (step, grow) = if cut { (0.08, 0.05) } else { (0.05, 0.05) };
    for shape in Shape::ALL {
        for round in 0..2 {
            let Some((start, from)) = best[shape as usize] else {
                continue;
            };
            let step = step * equal / (1.0 + round as f32);
            let grow = 1.0 + grow / (1.0 + round as f32);
            for (dx, dy, s) in [
                (step, 0.0, 1.0),
                (-step, 0.0, 1.0),
                (0.0, step, 1.0),
                (0.0, -step, 1.0),
                (0.0, 0.0, grow),
                (0.0, 0.0, 1.0 / grow),
            ] {
                attempt(start.x + dx, start.y + dy, s * from, Some(shape), &mut best);
            }
        }
    }
    let nothing = Fit { shape: Shape::Circle, radius: equal, x: blob.x, y: blob.y, overlap: 0.0 };
    best.into_iter()
        .flatten()
        .map(|(f, _)| f)
        .fold(nothing, |a, b| if b.overlap > a.overlap { b } else { a })
}

/// Cover at the template's samples by bilinear interpolation; none outside of the picture.
fn sample(blob: &Blob, x: f32, y: f32, equal: f32, patch: &mut [Option<f32>]) {
    let last = SIDE as f32 - 1.0;
    for (i, value) in patch.iter_mut().enumerate() {
        let px = x + equal * node(i % GRID) - 0.5;
        let py = y + equal * node(i / GRID) - 0.5;
        *value = if px < -0.5 || py < -0.5 || px > last + 0.5 || py > last + 0.5 {
            None
        } else {
            let (px, py) = (px.clamp(0.0, last), py.clamp(0.0, last));
            let (x0, y0) = ((px as usize).min(SIDE - 2), (py as usize).min(SIDE - 2));
            let (fx, fy) = (px - x0 as f32, py - y0 as f32);
            let at = |dx: usize, dy: usize| blob.cover[(y0 + dy) * SIDE + x0 + dx];
            let upper = at(0, 0) + fx * (at(1, 0) - at(0, 0));
            let lower = at(0, 1) + fx * (at(1, 1) - at(0, 1));
            Some(upper + fy * (lower - upper))
        };
    }
}

fn compare(patch: &[Option<f32>], template: &[f32], missed: f32) -> f32 {
    let (mut both, mut either) = (0.0, missed);
    for (p, t) in patch.iter().zip(template) {
        if let Some(p) = p {
            both += p.min(*t);
            either += p.max(*t);
        }
    }
    both / either.max(1e-6)
}
