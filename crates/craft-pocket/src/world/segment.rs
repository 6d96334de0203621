//! Finds coloured blobs on a neutral background.

use super::SIDE;

const PIXELS: usize = SIDE * SIDE;
/// Blobs below this many pixels at half cover are specks.
const LEAST_PIXELS: usize = 20;
/// Chroma below this is never an object, however grey the picture.
const LEAST_CHROMA: f32 = 7.0;
/// Of more blobs the largest are kept.
const MOST_BLOBS: usize = 8;
/// A background of this median chroma or more is smoothed, once for each value that it exceeds.
const SMOOTH_ABOVE: [f32; 2] = [3.5, 4.5];
/// The threshold lies at least this many times above the median chroma of the background.
const NOISE_MARGIN: f32 = 3.2;
/// The palest colour has .57 of the chroma of the strongest; a blob with less than this share is a stain.
const LEAST_SHARE: f32 = 0.36;

/// A coloured blob.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    /// Cover per pixel in 0..1, zero away from the blob.
    pub(super) cover: Vec<f32>,
    /// Sum of cover in pixels.
    pub(super) area: f32,
    /// Centroid in pixels.
    pub(super) x: f32,
    /// Centroid in pixels.
    pub(super) y: f32,
    /// Hue in degrees.
    pub(super) hue: f32,
    /// Whether it reaches the left, top, right, bottom border.
    pub(super) cut: [bool; 4],
}

/// A picture taken apart.
#[derive(Clone, Debug)]
pub(super) struct Segments {
    pub(super) blobs: Vec<Blob>,
    /// Median luminance of what is not coloured, 0..255.
    pub(super) background: f32,
}

/// Takes apart an image of `SIDE * SIDE * 3` bytes.
///
/// Chroma is the distance from the grey axis after the background's tint is taken away. Its threshold
/// follows the most colourful object of the picture; each blob's border then lies at half of its own
/// chroma, so that washed-out, blurred and dark objects keep their outline.
pub(super) fn segment(image: &[u8]) -> Segments {
    let (mut opponent, mut chroma) = opponents(image);
    for limit in SMOOTH_ABOVE {
        if noise_floor(&chroma, nth_largest(&chroma, 25)) > limit {
            smooth(&mut opponent);
            chroma = opponent.iter().map(length).collect();
        }
    }
    let luma: Vec<f32> =
        image.chunks_exact(3).map(|p| p.iter().map(|v| f32::from(*v)).sum::<f32>() / 3.0).collect();
    let peak = nth_largest(&chroma, 25);
    let low = (0.28 * peak).max(LEAST_CHROMA).max(NOISE_MARGIN * noise_floor(&chroma, peak));
    let all_coloured: Vec<bool> = chroma.iter().map(|c| *c > low).collect();
    let mut found: Vec<(f32, Vec<usize>)> = Vec::new();
    for region in components(&all_coloured, LEAST_PIXELS) {
        for part in by_hue(region, &opponent) {
            let level = 0.5 * quantile(&part, &chroma, 0.85);
            if level < 0.5 * LEAST_CHROMA || level < 0.5 * low {
                continue;
            }
            let mut mask = vec![false; PIXELS];
            part.iter().filter(|i| chroma[**i] > level).for_each(|i| mask[*i] = true);
            found.extend(components(&mask, LEAST_PIXELS).into_iter().map(|c| (level, c)));
        }
    }
    let strongest = found
        .iter()
        .filter(|(_, c)| c.len() >= 2 * LEAST_PIXELS)
        .map(|(l, _)| *l)
        .fold(0.0, f32::max);
    found.retain(|(level, _)| *level >= LEAST_SHARE * strongest);
    found.sort_by_key(|(_, pixels)| std::cmp::Reverse(pixels.len()));
    found.truncate(MOST_BLOBS);
    let mut owner = vec![usize::MAX; PIXELS];
    for (b, (_, pixels)) in found.iter().enumerate() {
        pixels.iter().for_each(|i| owner[*i] = b);
    }
    let blobs = found
        .iter()
        .enumerate()
        .map(|(b, (_, pixels))| blob(b, pixels, &owner, &opponent, &chroma))
        .collect();
    let mut rest: Vec<f32> =
        (0..PIXELS).filter(|i| chroma[*i] < 0.5 * low.min(peak)).map(|i| luma[i]).collect();
    rest.sort_by(f32::total_cmp);
    let background = rest.get(rest.len() / 2).copied().unwrap_or(128.0);
    Segments { blobs, background }
}

/// RGB minus its mean, less the background's own; and its length.
fn opponents(image: &[u8]) -> (Vec<[f32; 3]>, Vec<f32>) {
    let mut opponent: Vec<[f32; 3]> = image
        .chunks_exact(3)
        .map(|p| {
            let rgb = [f32::from(p[0]), f32::from(p[1]), f32::from(p[2])];
            let mean = (rgb[0] + rgb[1] + rgb[2]) / 3.0;
            rgb.map(|v| v - mean)
        })
        .collect();
    let first: Vec<f32> = opponent.iter().map(length).collect();
    let calm = 0.25 * nth_largest(&first, 25);
    let mut tint = [0.0; 3];
    for (c, t) in tint.iter_mut().enumerate() {
        let mut values: Vec<f32> =
            (0..PIXELS).filter(|i| first[*i] <= calm).map(|i| opponent[i][c]).collect();
        values.sort_by(f32::total_cmp);
        *t = values.get(values.len() / 2).copied().unwrap_or(0.0);
    }
    for o in &mut opponent {
        (0..3).for_each(|c| o[c] -= tint[c]);
    }
    let chroma = opponent.iter().map(length).collect();
    (opponent, chroma)
}

fn length(o: &[f32; 3]) -> f32 {
    (o[0] * o[0] + o[1] * o[1] + o[2] * o[2]).sqrt()
}

/// Weights 1, 2, 1 in both directions; the border is repeated.
fn smooth(opponent: &mut [[f32; 3]]) {
    for (stride, step) in [(1, SIDE), (SIDE, 1)] {
        for row in 0..SIDE {
            let line: Vec<[f32; 3]> =
                (0..SIDE).map(|x| opponent[row * step + x * stride]).collect();
            for x in 0..SIDE {
                let (a, b, c) = (line[x.saturating_sub(1)], line[x], line[(x + 1).min(SIDE - 1)]);
                opponent[row * step + x * stride] =
                    [0, 1, 2].map(|k| 0.25 * a[k] + 0.5 * b[k] + 0.25 * c[k]);
            }
        }
    }
}

/// Median chroma of what is far from colourful.
fn noise_floor(chroma: &[f32], peak: f32) -> f32 {
    let mut calm: Vec<f32> = chroma.iter().copied().filter(|c| *c < 0.5 * peak).collect();
    let middle = calm.len() / 2;
    if calm.is_empty() { 0.0 } else { *calm.select_nth_unstable_by(middle, f32::total_cmp).1 }
}

fn nth_largest(values: &[f32], n: usize) -> f32 {
    let mut sorted = values.to_vec();
    let n = n.min(sorted.len() - 1);
    *sorted.select_nth_unstable_by(n, |a, b| b.total_cmp(a)).1
}

fn quantile(pixels: &[usize], values: &[f32], q: f32) -> f32 {
    let mut sorted: Vec<f32> = pixels.iter().map(|i| values[*i]).collect();
    sorted.sort_by(f32::total_cmp);
    sorted.get((q * sorted.len() as f32) as usize).copied().unwrap_or(0.0)
}

/// 4-connected regions of at least `least` pixels.
fn components(mask: &[bool], least: usize) -> Vec<Vec<usize>> {
    let mut seen = vec![false; PIXELS];
    let mut found = Vec::new();
    for start in 0..PIXELS {
        if !mask[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let mut pixels = vec![start];
        let mut next = 0;
        while next < pixels.len() {
            let i = pixels[next];
            next += 1;
            let (x, y) = (i % SIDE, i / SIDE);
            let mut visit = |j: usize| {
                if mask[j] && !seen[j] {
                    seen[j] = true;
                    pixels.push(j);
                }
            };
            if x > 0 {
                visit(i - 1);
            }
            if x + 1 < SIDE {
                visit(i + 1);
            }
            if y > 0 {
                visit(i - SIDE);
            }
            if y + 1 < SIDE {
                visit(i + SIDE);
            }
        }
        if pixels.len() >= least {
            found.push(pixels);
        }
    }
    found
}

/// Splits a region where objects of different hue touch: each hue with a fifth of the region or more
/// becomes a region of its own.
fn by_hue(region: Vec<usize>, opponent: &[[f32; 3]]) -> Vec<Vec<usize>> {
    let mut classes: [Vec<usize>; 6] = Default::default();
    for i in &region {
        classes[super::checker::nearest_colour(hue(&opponent[*i])) as usize].push(*i);
    }
    let large =
        classes.iter().filter(|c| c.len() * 5 >= region.len() && c.len() >= LEAST_PIXELS).count();
    if large < 2 {
        return vec![region];
    }
    let least = region.len();
    classes.into_iter().filter(|c| c.len() * 5 >= least && c.len() >= LEAST_PIXELS).collect()
}

/// Hue in degrees of a colour less its mean.
fn hue(o: &[f32; 3]) -> f32 {
    let (high, low) = (o[0].max(o[1]).max(o[2]), o[0].min(o[1]).min(o[2]));
    let range = (high - low).max(1e-6);
    let sixth = if high == o[0] {
        (o[1] - o[2]) / range
    } else if high == o[1] {
        2.0 + (o[2] - o[0]) / range
    } else {
        4.0 + (o[0] - o[1]) / range
    };
    (60.0 * sixth).rem_euclid(360.0)
}

fn blob(
    me: usize,
    pixels: &[usize],
    owner: &[usize],
    opponent: &[[f32; 3]],
    chroma: &[f32],
) -> Blob {
    let full = quantile(pixels, chroma, 0.75).max(1.0);
    let mut colour = [0.0; 3];
    for i in pixels.iter().filter(|i| chroma[**i] > 0.8 * full) {
        (0..3).for_each(|c| colour[c] += opponent[*i][c]);
    }
    // Soft cover reaches two pixels beyond half cover, but not into another blob.
    let mut cover = vec![0.0; PIXELS];
    let mut cut = [false; 4];
    let (mut area, mut sx, mut sy) = (0.0, 0.0, 0.0);
    let mut reached = vec![false; PIXELS];
    for i in pixels {
        let (x, y) = (i % SIDE, i / SIDE);
        cut =
            [cut[0] || x == 0, cut[1] || y == 0, cut[2] || x + 1 == SIDE, cut[3] || y + 1 == SIDE];
        for ny in y.saturating_sub(2)..(y + 3).min(SIDE) {
            for nx in x.saturating_sub(2)..(x + 3).min(SIDE) {
                let j = ny * SIDE + nx;
                if reached[j] || (owner[j] != me && owner[j] != usize::MAX) {
                    continue;
                }
                reached[j] = true;
                let c = (chroma[j] / full).min(1.0);
                cover[j] = if c < 0.08 { 0.0 } else { c };
                area += cover[j];
                sx += cover[j] * (nx as f32 + 0.5);
                sy += cover[j] * (ny as f32 + 0.5);
            }
        }
    }
    let weight = area.max(1e-6);
    Blob { cover, area, x: sx / weight, y: sy / weight, hue: hue(&colour), cut }
}
