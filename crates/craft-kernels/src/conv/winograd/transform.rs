//! The small transforms, for vectors of channels.
//!
//! `y = Aᵀ [(G g) ⊙ (Bᵀ d)]` is the correlation of six values `d` with three weights `g`, four
//! results; applied to rows and to columns it is that of a tile. The matrices follow from
//! evaluating and interpolating polynomials at 0, ±√½, ±√2 and infinity (Toom and Cook). These
//! points, rather than 0, ±1, ±2, keep the matrices well conditioned: the error is a fifth of
//! theirs, about that of adding up all products one after another.
//!
//! Transposed, `g = Gᵀ [(A y) ⊙ (Bᵀ d)]` is the gradient with respect to the weights, of a tile of
//! output gradients `y`.

use crate::simd::map::{read, write};
use crate::simd::{Kernel, Simd};
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

/// Rows and columns of a tile of results.
pub(super) const OUT: usize = 4;
/// Rows and columns of the tile of inputs that they need.
pub(super) const IN: usize = 6;
/// Products a tile and pair of channels.
pub(super) const POINTS: usize = IN * IN;

const A: f32 = FRAC_1_SQRT_2;
const B: f32 = SQRT_2;

/// `Bᵀ d`.
#[inline(always)]
fn input<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
    let ([a, b, c], [d, e, f]) = (input_half(s, d, false), input_half(s, d, true));
    [a, b, c, d, e, f]
}

/// The first three values of `Bᵀ d`, or the last three; they have nothing in common.
#[inline(always)]
fn input_half<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: [S::V; 6], last: bool) -> [S::V; 3] {
    let most = s.splat(-2.5);
    if last {
        let (e, o) = (s.fma(s.splat(-0.5), d2, d4), s.fma(s.splat(-0.5), d1, d3));
        [s.fma(s.splat(B), o, e), s.fma(s.splat(-B), o, e), s.fma(most, d3, s.add(d1, d5))]
    } else {
        let (e, o) = (s.fma(s.splat(-2.0), d2, d4), s.fma(s.splat(-2.0), d1, d3));
        [s.fma(most, d2, s.add(d0, d4)), s.fma(s.splat(A), o, e), s.fma(s.splat(-A), o, e)]
    }
}

/// `Aᵀ m`.
#[inline(always)]
fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
    let [m0, m1, m2, m3, m4, m5] = m;
    let (e1, o1) = (s.add(m1, m2), s.sub(m1, m2));
    let (e2, o2) = (s.add(m3, m4), s.sub(m3, m4));
    [
        s.add(m0, s.add(e1, e2)),
        s.fma(s.splat(A), o1, s.mul(s.splat(B), o2)),
        s.fma(s.splat(0.5), e1, s.add(e2, e2)),
        s.fma(s.splat(0.5 * A), o1, s.fma(s.splat(2.0 * B), o2, m5)),
    ]
}

/// `A y`.
#[inline(always)]
fn output_gradient<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
    let [y0, y1, y2, y3] = y;
    let (e1, o1) = (s.fma(s.splat(0.5), y2, y0), s.fma(s.splat(0.5), y3, y1));
    let (e2, o2) = (s.fma(s.splat(2.0), y2, y0), s.fma(s.splat(2.0), y3, y1));
    [
        y0,
        s.fma(s.splat(A), o1, e1),
        s.fma(s.splat(-A), o1, e1),
        s.fma(s.splat(B), o2, e2),
        s.fma(s.splat(-B), o2, e2),
        y3,
    ]
}

/// `G g`.
#[inline(always)]
fn weight<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6] {
    let [g0, g1, g2] = g;
    let e1 = s.fma(s.splat(-2.0 / 3.0), g0, s.mul(s.splat(-1.0 / 3.0), g2));
    let e2 = s.fma(s.splat(1.0 / 6.0), g0, s.mul(s.splat(1.0 / 3.0), g2));
    [
        g0,
        s.fma(s.splat(-2.0 / 3.0 * A), g1, e1),
        s.fma(s.splat(2.0 / 3.0 * A), g1, e1),
        s.fma(s.splat(B / 6.0), g1, e2),
        s.fma(s.splat(-B / 6.0), g1, e2),
        g2,
    ]
}

/// `Gᵀ t`.
#[inline(always)]
fn weight_gradient<S: Simd>(s: S, t: [S::V; 6]) -> [S::V; 3] {
    let [t0, t1, t2, t3, t4, t5] = t;
    let (e1, o1) = (s.add(t1, t2), s.sub(t1, t2));
    let (e2, o2) = (s.add(t3, t4), s.sub(t3, t4));
    let third = s.splat(1.0 / 3.0);
    [
        s.fma(s.splat(-2.0 / 3.0), e1, s.fma(s.splat(1.0 / 6.0), e2, t0)),
        s.fma(s.splat(-2.0 / 3.0 * A), o1, s.mul(s.splat(B / 6.0), o2)),
        s.fma(third, s.sub(e2, e1), t5),
    ]
}

/// Applies `$f` to the columns and then to the rows of the `$n` by `$n` values `$value`, giving
/// `$m` by `$m`. A macro, since closures would be compiled without the vector instructions.
macro_rules! both_ways {
    ($s:ident, $f:ident, $n:literal, $m:literal, |$y:ident, $x:ident| $value:expr) => {{
        let mut half = [[$s.zero(); $n]; $m];
        for $x in 0..$n {
            let mut column = [$s.zero(); $n];
            for $y in 0..$n {
                column[$y] = $value;
            }
            let column = $f($s, column);
            for i in 0..$m {
                half[i][$x] = column[i];
            }
        }
        let mut whole = [[$s.zero(); $m]; $m];
        for i in 0..$m {
            whole[i] = $f($s, half[i]);
        }
        whole
    }};
}

/// Runs `$body` for whole vectors of `$len` channels from index `$i` and then for the rest, `$n`
/// valid lanes each.
macro_rules! for_channels {
    ($s:ty, $len:expr, |$i:ident, $n:ident| $body:expr) => {{
        let (len, lanes) = ($len, <$s as Simd>::LANES);
        let mut $i = 0;
        while $i + lanes <= len {
            let $n = lanes;
            $body;
            $i += lanes;
        }
        if $i < len {
            let $n = len - $i;
            $body;
        }
    }};
}

/// Where `N` by `N` pixels of a channels-last image `[rows, columns, c]` lie; pixels outside are at
/// `outside`.
#[inline(always)]
fn places<const N: usize>(
    image: *mut f32,
    [rows, columns, c]: [usize; 3],
    [top, left]: [isize; 2],
    outside: *mut f32,
) -> [[*mut f32; N]; N] {
    // Without branches: this is done for every tile.
    let (mut y_at, mut x_at) = ([0; N], [0; N]);
    let (mut y_inside, mut x_inside) = ([false; N], [false; N]);
    for i in 0..N {
        let (y, x) = (top.wrapping_add_unsigned(i), left.wrapping_add_unsigned(i));
        (y_inside[i], x_inside[i]) = (y.cast_unsigned() < rows, x.cast_unsigned() < columns);
        y_at[i] = y.cast_unsigned().wrapping_mul(columns * c);
        x_at[i] = x.cast_unsigned().wrapping_mul(c);
    }
    let mut at = [[outside; N]; N];
    for (line, (&y, &inside)) in at.iter_mut().zip(y_at.iter().zip(&y_inside)) {
        for (p, (&x, &beside)) in line.iter_mut().zip(x_at.iter().zip(&x_inside)) {
            let place = image.wrapping_add(y.wrapping_add(x));
            *p = if inside & beside { place } else { outside };
        }
    }
    at
}

/// A row of neighbouring tiles of a channels-last image, and the same row in transformed form.
#[derive(Clone, Copy)]
pub(super) struct TileRow {
    /// `[rows, columns, c]`; read by the transforms of inputs, written by that of results.
    pub image: *mut f32,
    pub shape: [usize; 3],
    /// Row and column of the first tile's first pixel, which may lie outside.
    pub top: isize,
    pub left: isize,
    pub tiles: usize,
    /// `c` values that stand for pixels outside: zeros to read, or room to write to.
    pub outside: *mut f32,
    /// Point `p` of the first tile begins at `points + p * stride`, the next tile `c` values later.
    pub points: *mut f32,
    pub stride: usize,
}

/// Transforms that begin or end with tiles of an image.
pub(super) enum Tiles {
    /// Transform of `IN` by `IN` pixels, `Bᵀ d B`.
    Input(TileRow),
    /// Transform of `OUT` by `OUT` pixels, `A y Aᵀ`.
    OutputGradient(TileRow),
    /// Transform to `OUT` by `OUT` pixels, `Aᵀ m A` plus one value a channel where there is a bias.
    Output(TileRow, Option<*const f32>),
}

impl Tiles {
    /// # Safety
    /// `image` is readable (for `Output` writable) over its shape, `outside` for `c` values, the
    /// points are writable (for
    /// `Output` readable) for `tiles * c` values each, the bias is readable for `c`; none of them
    /// overlap.
    pub(super) unsafe fn ready(self) -> ReadyTiles {
        ReadyTiles(self)
    }
}

/// [`Tiles`] whose pointers were vouched for.
pub(super) struct ReadyTiles(Tiles);

impl Kernel for ReadyTiles {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.0 {
            Tiles::Input(t) => inputs(s, t),
            Tiles::OutputGradient(t) => output_gradients(s, t),
            Tiles::Output(t, bias) => outputs(s, t, bias),
        }
    }
}

#[inline(always)]
fn inputs<S: Simd>(s: S, t: TileRow) {
    let c = t.shape[2];
    for tile in 0..t.tiles {
        let corner = [t.top, t.left + (tile * OUT) as isize];
        let at = places::<IN>(t.image, t.shape, corner, t.outside);
        let to = t.points.wrapping_add(tile * c);
        for_channels!(S, c, |i, n| {
            // SAFETY: `ready` vouched for c values at every place, and of this tile at every point.
            unsafe {
                input_points::<S, false>(s, &at, to, t.stride, i, n);
                input_points::<S, true>(s, &at, to, t.stride, i, n);
            }
        });
    }
}

/// The points of the first three columns, or of the last three: all 36 at once would not stay in
/// the registers.
///
/// # Safety
/// From index `i` on, `n` values are readable at every place, and writable at every point, `stride`
/// apart.
#[inline(always)]
unsafe fn input_points<S: Simd, const LAST: bool>(
    s: S,
    at: &[[*mut f32; IN]; IN],
    to: *mut f32,
    stride: usize,
    i: usize,
    n: usize,
) {
    let mut half = [[s.zero(); IN]; IN / 2];
    for y in 0..IN {
        let mut pixels = [s.zero(); IN];
        for x in 0..IN {
            // SAFETY: the caller vouches for every place.
            pixels[x] = unsafe { read(s, at[y][x].add(i), n) };
        }
        let row = input_half(s, pixels, LAST);
        for x in 0..IN / 2 {
            half[x][y] = row[x];
        }
    }
    for (x, half) in half.iter().enumerate() {
        let first = if LAST { x + IN / 2 } else { x };
        for (y, &v) in input(s, *half).iter().enumerate() {
            // SAFETY: the caller vouches for every point.
            unsafe { write(s, to.add((y * IN + first) * stride + i), v, n) };
        }
    }
}

#[inline(always)]
fn output_gradients<S: Simd>(s: S, t: TileRow) {
    let c = t.shape[2];
    for tile in 0..t.tiles {
        let corner = [t.top, t.left + (tile * OUT) as isize];
        let at = places::<OUT>(t.image, t.shape, corner, t.outside);
        let to = t.points.wrapping_add(tile * c);
        for_channels!(S, c, |i, n| {
            // SAFETY: `ready` vouched for c values at every place.
            let v =
                both_ways!(s, output_gradient, 4, 6, |y, x| unsafe { read(s, at[y][x].add(i), n) });
            for (p, &v) in v.as_flattened().iter().enumerate() {
                // SAFETY: `ready` vouched for c values of this tile at every point.
                unsafe { write(s, to.add(p * t.stride + i), v, n) };
            }
        });
    }
}

#[inline(always)]
fn outputs<S: Simd>(s: S, t: TileRow, bias: Option<*const f32>) {
    let c = t.shape[2];
    for tile in 0..t.tiles {
        let corner = [t.top, t.left + (tile * OUT) as isize];
        let at = places::<OUT>(t.image, t.shape, corner, t.outside);
        let from = t.points.wrapping_add(tile * c);
        for_channels!(S, c, |i, n| {
            // SAFETY: `ready` vouched for c values of this tile at every point.
            let v = both_ways!(s, output, 6, 4, |y, x| unsafe {
                read(s, from.add((y * IN + x) * t.stride + i), n)
            });
            // SAFETY: `ready` vouched for c values of the bias and at every place.
            unsafe {
                let b = match bias {
                    Some(bias) => read(s, bias.add(i), n),
                    None => s.zero(),
                };
                for (at, &v) in at.as_flattened().iter().zip(v.as_flattened()) {
                    write(s, at.add(i), s.add(v, b), n);
                }
            }
        });
    }
}

/// Transforms of weights: nine rows of `n` values, tap after tap at distance `row` (negative where
/// the kernel is turned around).
#[derive(Clone, Copy)]
pub(super) struct Weights {
    pub taps: *mut f32,
    pub n: usize,
    pub row: isize,
    /// Point `p` begins at `points + p * stride`.
    pub points: *mut f32,
    pub stride: usize,
    /// From weights to points, `G g Gᵀ`, or back, `Gᵀ t G`.
    pub back: bool,
}

impl Weights {
    /// # Safety
    /// The taps are readable (where `back`, writable), and the points writable (where `back`,
    /// readable), for `n` values each; they do not overlap.
    pub(super) unsafe fn ready(self) -> ReadyWeights {
        ReadyWeights(self)
    }
}

/// [`Weights`] whose pointers were vouched for.
pub(super) struct ReadyWeights(Weights);

impl Kernel for ReadyWeights {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        for_channels!(S, t.n, |i, n| {
            if t.back {
                // SAFETY: `ready` vouched for n values at every point and tap.
                unsafe {
                    let g = both_ways!(s, weight_gradient, 6, 3, |y, x| read(
                        s,
                        t.points.add((y * IN + x) * t.stride + i),
                        n
                    ));
                    for (tap, &v) in g.as_flattened().iter().enumerate() {
                        write(s, t.taps.offset(tap as isize * t.row).add(i), v, n);
                    }
                }
            } else {
                // SAFETY: `ready` vouched for n values at every point and tap.
                unsafe {
                    let u = both_ways!(s, weight, 3, 6, |y, x| read(
                        s,
                        t.taps.offset((y * 3 + x) as isize * t.row).add(i),
                        n
                    ));
                    for (p, &v) in u.as_flattened().iter().enumerate() {
                        write(s, t.points.add(p * t.stride + i), v, n);
                    }
                }
            }
        });
    }
}
