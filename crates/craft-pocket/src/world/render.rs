//! From scene and quality to pixels: a pure function.

use super::quality::Quality;
use super::rng::WorldRng;
use super::scene::{Background, Object, Scene};
use super::{IMAGE_BYTES, SIDE};

/// Blur in pixels at sharpness 0.
pub const MAX_BLUR: f32 = 1.8;
/// Marks on the background at cleanliness 0.
pub const MAX_MARKS: f32 = 18.0;
/// Share of saturation left at contrast 0.
pub const MIN_SATURATION: f32 = 0.25;
/// Share of the distance from mid grey left at contrast 0.
pub const MIN_LIGHTNESS: f32 = 0.40;

const PIXELS: usize = SIDE * SIDE;
const MID_GREY: f32 = 128.0;

/// Draws a scene: RGB, row-major, `64 * 64 * 3` bytes.
///
/// Order: background, marks, objects (anti-aliased by distance to the outline), blur, contrast. All
/// randomness comes from `scene.seed`, so that equal arguments give equal bytes.
pub fn render(scene: &Scene, quality: &Quality) -> Vec<u8> {
    let mut rng = WorldRng::stream(scene.seed, 2);
    let shade = scene.background.shade() + rng.between(-5.0, 5.0);
    let mut planes = [[shade; PIXELS]; 3];
    draw_marks(&mut planes, scene.background, quality.cleanliness, &mut rng);
    for object in scene.placed(quality.composition) {
        draw_object(&mut planes, &object);
    }
    let sigma = MAX_BLUR * (1.0 - quality.sharpness.clamp(0.0, 1.0));
    if sigma > 0.05 {
        planes.iter_mut().for_each(|plane| blur(plane, sigma));
    }
    to_bytes(&planes, quality.contrast.clamp(0.0, 1.0))
}

fn to_bytes(planes: &[[f32; PIXELS]; 3], contrast: f32) -> Vec<u8> {
    let saturation = MIN_SATURATION + (1.0 - MIN_SATURATION) * contrast;
    let lightness = MIN_LIGHTNESS + (1.0 - MIN_LIGHTNESS) * contrast;
    let mut bytes = Vec::with_capacity(IMAGE_BYTES);
    for i in 0..PIXELS {
        let mean = (planes[0][i] + planes[1][i] + planes[2][i]) / 3.0;
        let grey = MID_GREY + lightness * (mean - MID_GREY);
        for plane in planes {
            bytes.push((grey + saturation * (plane[i] - mean)).round().clamp(0.0, 255.0) as u8);
        }
    }
    bytes
}

/// Short strokes and dots in neutral shades; the last one is drawn in part, so that the number of marks
/// grows continuously as cleanliness falls.
fn draw_marks(
    planes: &mut [[f32; PIXELS]; 3],
    background: Background,
    cleanliness: f32,
    rng: &mut WorldRng,
) {
    let wanted = MAX_MARKS * (1.0 - cleanliness.clamp(0.0, 1.0));
    let side = SIDE as f32;
    let mut drawn = 0.0;
    while drawn < wanted {
        let opacity = (wanted - drawn).min(1.0);
        drawn += 1.0;
        let (x, y) = (rng.between(1.0, side - 1.0), rng.between(1.0, side - 1.0));
        let length = if rng.chance(0.3) { 0.3 } else { rng.between(4.0, 10.0) };
        let (dy, dx) = (std::f32::consts::TAU * rng.uniform()).sin_cos();
        let half_width = if length < 1.0 { rng.between(1.0, 1.7) } else { rng.between(0.6, 1.0) };
        let dark = match background {
            Background::White => true,
            Background::Black => false,
            Background::Grey => rng.chance(0.6),
        };
        let away = rng.between(70.0, 125.0);
        let shade = if dark { background.shade() - away } else { background.shade() + away };
        let (ex, ey) = (x + length * dx, y + length * dy);
        let around = [x.min(ex) - 3.0, y.min(ey) - 3.0, x.max(ex) + 3.0, y.max(ey) + 3.0];
        for_pixels(around, |i, px, py| {
            let along = ((px - x) * dx + (py - y) * dy).clamp(0.0, length);
            let distance = (px - x - along * dx).hypot(py - y - along * dy);
            let cover = opacity * (half_width + 0.5 - distance).clamp(0.0, 1.0);
            for plane in planes.iter_mut() {
                plane[i] += cover * (shade - plane[i]);
            }
        });
    }
}

fn draw_object(planes: &mut [[f32; PIXELS]; 3], object: &Object) {
    let outline = object.outline();
    let e = object.extent();
    let around = [
        object.x + e[0] - 1.0,
        object.y + e[1] - 1.0,
        object.x + e[2] + 1.0,
        object.y + e[3] + 1.0,
    ];
    for_pixels(around, |i, px, py| {
        let distance = signed_distance(&outline, object.radius, px - object.x, py - object.y);
        let cover = (0.5 - distance).clamp(0.0, 1.0);
        for (plane, target) in planes.iter_mut().zip(object.rgb) {
            plane[i] += cover * (target - plane[i]);
        }
    });
}

/// Calls back for every pixel (index, centre) inside a box given as left, top, right, bottom.
fn for_pixels(around: [f32; 4], mut visit: impl FnMut(usize, f32, f32)) {
    let clip = |v: f32| v.clamp(0.0, SIDE as f32) as usize;
    for y in clip(around[1].floor())..clip(around[3].ceil()) {
        for x in clip(around[0].floor())..clip(around[2].ceil()) {
            visit(y * SIDE + x, x as f32 + 0.5, y as f32 + 0.5);
        }
    }
}

/// Distance to the outline of a polygon, or of a circle of `radius` where there are no corners; negative
/// inside.
fn signed_distance(corners: &[(f32, f32)], radius: f32, x: f32, y: f32) -> f32 {
    if corners.is_empty() {
        return x.hypot(y) - radius;
    }
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let mut a = corners[corners.len() - 1];
    for &b in corners {
        let (ex, ey) = (b.0 - a.0, b.1 - a.1);
        let (px, py) = (x - a.0, y - a.1);
        let t = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (rx, ry) = (px - t * ex, py - t * ey);
        nearest = nearest.min(rx * rx + ry * ry);
        if (a.1 > y) != (b.1 > y) && x < a.0 + ex * (y - a.1) / ey {
            inside = !inside;
        }
        a = b;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

/// Separable Gaussian blur; the border is repeated.
fn blur(plane: &mut [f32; PIXELS], sigma: f32) {
    let reach = (3.0 * sigma).ceil() as usize;
    let mut kernel: Vec<f32> = (0..=2 * reach)
        .map(|i| (-0.5 * ((i as f32 - reach as f32) / sigma).powi(2)).exp())
        .collect();
    let total: f32 = kernel.iter().sum();
    kernel.iter_mut().for_each(|k| *k /= total);
    let mut line = vec![0.0; SIDE + 2 * reach];
    for (stride, step) in [(1, SIDE), (SIDE, 1)] {
        for row in 0..SIDE {
            for (i, v) in line.iter_mut().enumerate() {
                *v = plane[row * step + i.saturating_sub(reach).min(SIDE - 1) * stride];
            }
            for x in 0..SIDE {
                plane[row * step + x * stride] =
                    kernel.iter().zip(&line[x..]).map(|(k, v)| k * v).sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendering_is_a_pure_function() {
        let mut rng = WorldRng::new(1);
        for _ in 0..50 {
            let scene = Scene::random(&mut rng);
            let quality = Quality::sample_broad(&mut rng);
            let image = render(&scene, &quality);
            assert_eq!(image.len(), IMAGE_BYTES);
            assert_eq!(image, render(&scene, &quality));
        }
    }

    #[test]
    fn every_axis_changes_the_picture_continuously() {
        let mut rng = WorldRng::new(2);
        let scene = Scene::random(&mut rng);
        let apart = |a: Quality, b: Quality| -> f32 {
            let (a, b) = (render(&scene, &a), render(&scene, &b));
            a.iter().zip(&b).map(|(x, y)| (f32::from(*x) - f32::from(*y)).abs()).sum::<f32>()
                / a.len() as f32
        };
        for axis in 0..4 {
            let at = |v: f32| {
                let mut q = [1.0; 4];
                q[axis] = v;
                Quality::from_array(q)
            };
            assert!(apart(at(1.0), at(0.0)) > 1.0, "axis {axis}");
            assert!(apart(at(0.5), at(0.505)) < 1.5, "axis {axis}");
        }
    }

    #[test]
    fn distance_is_negative_inside() {
        let square = super::super::Shape::Square.corners();
        assert!((signed_distance(&square, 1.0, 0.0, 0.0) + 0.9).abs() < 1e-5);
        assert!((signed_distance(&square, 1.0, 1.9, 0.0) - 1.0).abs() < 1e-5);
        assert!((signed_distance(&[], 2.0, 3.0, 0.0) - 1.0).abs() < 1e-6);
    }
}
