//! What is in a picture: objects, their places, the background.

use serde::{Deserialize, Serialize};

pub use super::attributes::{Background, Colour, Relation, SceneKind, Shape, SizeClass};
use super::rng::WorldRng;

/// Looks of one object without its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Look {
    /// Outline.
    pub shape: Shape,
    /// Colour.
    pub colour: Colour,
    /// Size class.
    pub size: SizeClass,
}

impl Look {
    /// Any look, all equally likely.
    pub fn random(rng: &mut WorldRng) -> Self {
        Self {
            shape: rng.pick(&Shape::ALL),
            colour: rng.pick(&Colour::ALL),
            size: rng.pick(&SizeClass::ALL),
        }
    }
}

/// One object at its place, at composition 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Outline, colour and size class.
    pub look: Look,
    /// Centre in pixels from the left.
    pub x: f32,
    /// Centre in pixels from the top.
    pub y: f32,
    /// Radius in pixels; the outline reaches up to 1.3 of it.
    pub radius: f32,
    /// Turn in radians.
    pub angle: f32,
    /// Colour as drawn, RGB in 0..255.
    pub rgb: [f32; 3],
}

impl Object {
    fn new(look: Look, rng: &mut WorldRng) -> Self {
        let (low, high) = look.size.radii();
        let (hue, saturation, value) = look.colour.hsv();
        let angle = if look.shape == Shape::Circle { 0.0 } else { rng.between(-0.2, 0.2) };
        let jitter = look.colour.hue_jitter();
        let rgb = hsv_to_rgb(
            hue + rng.between(-jitter, jitter),
            (saturation + rng.between(-0.05, 0.05)).min(1.0),
            (value + rng.between(-0.04, 0.04)).min(1.0),
        );
        Self { look, x: 0.0, y: 0.0, radius: rng.between(low, high), angle, rgb }
    }

    /// Corners in pixels relative to the centre; empty for a circle.
    pub(crate) fn outline(&self) -> Vec<(f32, f32)> {
        let (s, c) = self.angle.sin_cos();
        let r = self.radius;
        self.look
            .shape
            .corners()
            .into_iter()
            .map(|(x, y)| (r * (c * x - s * y), r * (s * x + c * y)))
            .collect()
    }

    /// Distance from the centre that corners of two neighbours may both use without touching: the farthest
    /// corner, less a little since two corners seldom meet.
    fn reach(&self) -> f32 {
        let farthest =
            self.look.shape.corners().iter().map(|(x, y)| x.hypot(*y)).fold(0.0, f32::max);
        self.radius * (0.95 * farthest).max(1.0)
    }

    /// Bounding box relative to the centre: left, top, right, bottom.
    pub(crate) fn extent(&self) -> [f32; 4] {
        let corners = self.outline();
        if corners.is_empty() {
            return [-self.radius, -self.radius, self.radius, self.radius];
        }
        corners.iter().fold([0.0, 0.0, 0.0, 0.0], |e: [f32; 4], (x, y)| {
            [e[0].min(*x), e[1].min(*y), e[2].max(*x), e[3].max(*y)]
        })
    }
}

fn hsv_to_rgb(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    let channel = |n: f32| {
        let k = (n + hue.rem_euclid(360.0) / 60.0) % 6.0;
        255.0 * (value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// What is in a picture. Together with a [`Quality`](super::Quality) it determines every pixel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Kind of scene.
    pub kind: SceneKind,
    /// Background.
    pub background: Background,
    /// One to three objects; for a pair, the relation is that of the first to the second.
    pub objects: Vec<Object>,
    /// Relation of the first object to the second in a pair.
    pub relation: Option<Relation>,
    /// Seed of what rendering draws at random: shade, marks, direction of the displacement.
    pub seed: u64,
}

/// Room in pixels that an arrangement may take at composition 1.
const ROOM: f32 = 62.0;

impl Scene {
    /// Any scene: 40 % single, 25 % count, 35 % pair.
    pub fn random(rng: &mut WorldRng) -> Self {
        let kind = [SceneKind::Single, SceneKind::Count, SceneKind::Pair]
            [rng.weighted(&[0.40, 0.25, 0.35])];
        Self::random_of(kind, rng)
    }

    /// Any scene of a kind.
    pub fn random_of(kind: SceneKind, rng: &mut WorldRng) -> Self {
        let background = rng.pick(&Background::ALL);
        let look = Look::random(rng);
        match kind {
            SceneKind::Single => Self::single(look, background, rng),
            SceneKind::Count => {
                let count = 2 + rng.below(2);
                Self::counted(look, count, background, rng)
            }
            SceneKind::Pair => {
                let mut other = Look::random(rng);
                while (other.shape, other.colour) == (look.shape, look.colour) {
                    other = Look::random(rng);
                }
                let relation = rng.pick(&Relation::ALL);
                Self::pair(look, other, relation, background, rng)
            }
        }
    }

    /// One object in the middle.
    pub fn single(look: Look, background: Background, rng: &mut WorldRng) -> Self {
        let objects = vec![Object::new(look, rng)];
        Self::finish(SceneKind::Single, background, objects, None, rng)
    }

    /// `count` objects (at least one) of one look, side by side, on a diagonal or on a ring.
    pub fn counted(look: Look, count: usize, background: Background, rng: &mut WorldRng) -> Self {
        if count <= 1 {
            return Self::single(look, background, rng);
        }
        let mut objects: Vec<Object> = (0..count).map(|_| Object::new(look, rng)).collect();
        let reach = objects.iter().map(Object::reach).fold(0.0, f32::max);
        let apart = 2.0 * reach + rng.between(2.5, 6.0);
        let ring = apart / (2.0 * (std::f32::consts::PI / count as f32).sin());
        let in_row = look.size == SizeClass::Small && rng.chance(0.4);
        // Two in a diagonal need more room than two in a row, so angles stay near the axes for large ones.
        let start = if count == 2 {
            let quarter = std::f32::consts::FRAC_PI_2 * rng.below(4) as f32;
            quarter + rng.between(-0.35, 0.35)
        } else {
            -std::f32::consts::FRAC_PI_2
                + std::f32::consts::PI * rng.below(2) as f32
                + rng.between(-0.25, 0.25)
        };
        let upright = rng.chance(0.5);
        for (i, object) in objects.iter_mut().enumerate() {
            let (x, y) = if in_row {
                let at = apart * (i as f32 - 0.5 * (count - 1) as f32);
                if upright { (0.0, at) } else { (at, 0.0) }
            } else {
                let a = start + std::f32::consts::TAU * i as f32 / count as f32;
                (ring * a.cos(), ring * a.sin())
            };
            object.x = x + rng.between(-0.8, 0.8);
            object.y = y + rng.between(-0.8, 0.8);
        }
        Self::finish(SceneKind::Count, background, objects, None, rng)
    }

    /// Two objects, the first in `relation` to the second.
    pub fn pair(
        first: Look,
        second: Look,
        relation: Relation,
        background: Background,
        rng: &mut WorldRng,
    ) -> Self {
        let mut objects = vec![Object::new(first, rng), Object::new(second, rng)];
        let (ux, uy) = relation.direction();
        let reach = |o: &Object, sign: f32| {
            let e = o.extent();
            let (x, y) = (sign * ux, sign * uy);
            if x < 0.0 {
                -e[0]
            } else if x > 0.0 {
                e[2]
            } else if y < 0.0 {
                -e[1]
            } else {
                e[3]
            }
        };
        let apart = reach(&objects[0], -1.0) + reach(&objects[1], 1.0) + rng.between(3.0, 7.0);
        let across = rng.between(-3.0, 3.0);
        objects[0].x = apart * ux + across * uy;
        objects[0].y = apart * uy + across * ux;
        Self::finish(SceneKind::Pair, background, objects, Some(relation), rng)
    }

    /// Centres the bounding box, shrinks what does not fit, draws the seed.
    fn finish(
        kind: SceneKind,
        background: Background,
        mut objects: Vec<Object>,
        relation: Option<Relation>,
        rng: &mut WorldRng,
    ) -> Self {
        let [left, top, right, bottom] = bounds(&objects);
        let scale = (ROOM / (right - left).max(bottom - top)).min(1.0);
        let middle = super::SIDE as f32 / 2.0;
        let (jx, jy) = (rng.between(-1.0, 1.0), rng.between(-1.0, 1.0));
        for object in &mut objects {
            object.x = middle + scale * (object.x - 0.5 * (left + right)) + jx;
            object.y = middle + scale * (object.y - 0.5 * (top + bottom)) + jy;
            object.radius *= scale;
        }
        Self { kind, background, objects, relation, seed: rng.bits() }
    }

    /// The objects where a picture of this composition shows them: at 1 as they stand, at 0 shrunk to
    /// 0.87 and moved in a direction given by the seed until an object reaches over the border by .35 of
    /// its half width.
    pub fn placed(&self, composition: f32) -> Vec<Object> {
        let poor = 1.0 - composition.clamp(0.0, 1.0);
        let scale = 1.0 - 0.13 * poor;
        let side = super::SIDE as f32;
        let middle = side / 2.0;
        let mut objects = self.objects.clone();
        for o in &mut objects {
            o.x = middle + scale * (o.x - middle);
            o.y = middle + scale * (o.y - middle);
            o.radius *= scale;
        }
        let angle = std::f32::consts::TAU * WorldRng::stream(self.seed, 1).uniform();
        let (dy, dx) = angle.sin_cos();
        let mut farthest = f32::INFINITY;
        for o in &objects {
            let e = o.extent();
            let over_x = 0.35 * 0.5 * (e[2] - e[0]);
            let over_y = 0.35 * 0.5 * (e[3] - e[1]);
            let room_x = if dx > 0.0 { side - (o.x + e[2]) } else { o.x + e[0] };
            let room_y = if dy > 0.0 { side - (o.y + e[3]) } else { o.y + e[1] };
            farthest = farthest
                .min((room_x + over_x) / dx.abs().max(1e-3))
                .min((room_y + over_y) / dy.abs().max(1e-3));
        }
        for o in &mut objects {
            o.x += poor * farthest.max(0.0) * dx;
            o.y += poor * farthest.max(0.0) * dy;
        }
        objects
    }
}

fn bounds(objects: &[Object]) -> [f32; 4] {
    objects.iter().fold([f32::MAX, f32::MAX, f32::MIN, f32::MIN], |b, o| {
        let e = o.extent();
        [b[0].min(o.x + e[0]), b[1].min(o.y + e[1]), b[2].max(o.x + e[2]), b[3].max(o.y + e[3])]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_at_composition_one() {
        let mut rng = WorldRng::new(3);
        for _ in 0..3000 {
            let scene = Scene::random(&mut rng);
            let [l, t, r, b] = bounds(&scene.placed(1.0));
            assert!(l > -0.6 && t > -0.6 && r < 64.6 && b < 64.6, "{scene:?}");
            if let Some(relation) = scene.relation {
                let (a, b) = (&scene.objects[0], &scene.objects[1]);
                assert!(relation.holds(a.x - b.x, a.y - b.y));
            }
        }
    }

    #[test]
    fn poor_composition_is_off_centre_but_visible() {
        let mut rng = WorldRng::new(4);
        for _ in 0..1000 {
            let scene = Scene::random(&mut rng);
            let [l, t, r, b] = bounds(&scene.placed(0.0));
            let off = (0.5 * (l + r) - 32.0).abs().max((0.5 * (t + b) - 32.0).abs());
            assert!(off > 3.0, "{off} {scene:?}");
            for o in scene.placed(0.0) {
                assert!(o.x > 0.0 && o.x < 64.0 && o.y > 0.0 && o.y < 64.0);
            }
        }
    }

    #[test]
    fn hues_come_out_of_rgb() {
        assert_eq!(hsv_to_rgb(0.0, 1.0, 1.0), [255.0, 0.0, 0.0]);
        assert_eq!(hsv_to_rgb(120.0, 1.0, 1.0), [0.0, 255.0, 0.0]);
        assert_eq!(hsv_to_rgb(240.0, 0.5, 1.0), [127.5, 127.5, 255.0]);
    }
}
