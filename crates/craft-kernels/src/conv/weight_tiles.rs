//! Gradient with respect to the weight, in bf16 on AMX tiles.
//!
//! As in [`weight`](super::weight) rows of the product are taps and its columns output channels.
//! Here the planes of several images follow each other, and `dy` has zeros where a plane is longer
//! than the output, so that one sum runs over all of them: sums over one small image would mostly
//! load and store their results. A tile's rows are sixteen channels at one tap, read in place.

use super::planes::Geometry;
use super::shape::ConvShape;
use crate::buffer::{Output, Shared, scratch, split};
use crate::gemm::block::panel_vectors;
use crate::gemm::pack::Transpose;
use crate::gemm::{Block, Init};
use crate::parallel;
use crate::simd::amx::TILE;
use crate::simd::bf16::Pairs;
use crate::simd::{Level, level};

/// Words of one product's sum.
const KC: usize = 256;
/// Input channels of one task.
const CHANNELS: usize = 32;
/// Tasks, where one block of channels a task would be fewer: each sums over images of its own.
const TASKS: usize = 8;
/// Most values of all those sums.
const SUMS: usize = 1 << 20;

/// How one weight gradient is cut into tasks and laid out; lengths in words of two positions.
/// Depends on the shape only.
struct Plan {
    g: Geometry,
    taps: usize,
    /// Planes of one channel.
    planes: usize,
    /// Words of one plane of one image, with the rows that only taps below the first reach.
    plane: usize,
    /// Images whose planes follow each other.
    group: usize,
    /// Distance of the stacks of two planes.
    stack: usize,
    /// Distance of two channels.
    channel: usize,
    /// Input channels of a task, and those tasks.
    block: usize,
    blocks: usize,
    /// Images of a task, and those tasks.
    images: usize,
    ranges: usize,
}

impl Plan {
    fn new(g: Geometry, s: &ConvShape) -> Self {
        let taps = s.kernel[0] * s.kernel[1];
        let (planes, plane) = (g.planes(), g.plane_len() / 2);
        let block = s.in_channels.min(CHANNELS);
        let blocks = s.in_channels.div_ceil(block);
        let most = (SUMS / s.weight_len()).min(TASKS.div_ceil(blocks)).clamp(1, s.batch);
        let images = s.batch.div_ceil(most);
        let group = (KC / plane).clamp(1, images);
        // Taps reach past the last plane, and the sum is of whole tiles.
        let beyond = plane - g.positions() / 2 + TILE;
        let stack = (group * plane + beyond).next_multiple_of(TILE);
        // An odd number of tiles, so that the rows of one do not share a set of the cache.
        let channel = ((planes * stack / TILE) | 1) * TILE;
        let ranges = s.batch.div_ceil(images);
        Self { g, taps, planes, plane, group, stack, channel, block, blocks, images, ranges }
    }
}

/// The gradient of a convolution whose output has an even width. `channel(n, c, room)` says where
/// channel c of image n of the input is: somewhere that outlives the call, or in `room`, which is
/// as long.
///
/// # Safety
/// What `channel` returns is readable for one channel of one image.
pub(super) unsafe fn weight_on_tiles(
    pairs: Pairs,
    channel: impl Fn(usize, usize, &mut [f32]) -> *const f32 + Sync,
    dy: &[f32],
    s: &ConvShape,
) -> Vec<f32> {
    let (level, p) = (level(), Plan::new(Geometry::forward(s), s));
    let (ci, co, taps) = (s.in_channels, s.out_channels, p.taps);
    let width = panel_vectors(co, TILE) * TILE;
    let panel = (s.batch * p.plane + TILE) * width;
    let mut dw = Output::new(s.weight_len());
    let to = dw.ptr();
    scratch(co.div_ceil(width) * panel, |turned| {
        turn(level, pairs, dy, s, &p, width, turned);
        let turned = &*turned;
        let rows = p.block * taps * co;
        let work = |task: usize, sums: *mut f32| {
            let (range, c0) = (task / p.blocks, task % p.blocks * p.block);
            let n0 = range * p.images;
            let images = (s.batch - n0).min(p.images);
            let channels = (ci - c0).min(p.block);
            let b = turned[n0 * p.plane * width..].as_ptr();
            // SAFETY: `sums` has room for the task's rows; the panels hold the images' rows and a
            // tile more; the caller vouches for the channels.
            unsafe {
                let right = Right { b, width, panel };
                let channel = |n: usize, c: usize, room: &mut [f32]| channel(n0 + n, c0 + c, room);
                sum(pairs, channel, s, &p, channels, images, right, sums);
            }
        };
        // Columns c0 * taps.. of dw [co, ci * taps].
        let put = |block: usize, sums: *const f32| {
            let c0 = block * p.block;
            let rows = (ci - c0).min(p.block) * taps;
            // SAFETY: `sums` is [rows, co]; each block has columns of its own.
            unsafe {
                level.run(Transpose::new(sums, co, rows, co, to.at(c0 * taps), ci * taps, 0));
            }
        };
        if p.ranges == 1 {
            parallel::for_each(p.blocks, s.flops(), |block| {
                scratch(rows, |sums| {
                    work(block, sums.as_mut_ptr());
                    put(block, sums.as_ptr());
                });
            });
            return;
        }
        scratch(p.ranges * p.blocks * rows, |all| {
            let at = Shared::new(all.as_mut_ptr());
            parallel::for_each(p.ranges * p.blocks, s.flops(), |task| {
                work(task, at.at(task * rows))
            });
            let all = &*all;
            parallel::for_each(p.blocks, 8 * all.len(), |block| {
                let valid = (ci - block * p.block).min(p.block) * taps * co;
                scratch(rows, |total| {
                    let total = &mut total[..valid];
                    total.copy_from_slice(&all[block * rows..][..valid]);
                    for range in 1..p.ranges {
                        let part = &all[(range * p.blocks + block) * rows..][..valid];
                        total.iter_mut().zip(part).for_each(|(t, v)| *t += v);
                    }
                    put(block, total.as_ptr());
                });
            });
        });
    });
    // SAFETY: the blocks cover all input channels.
    unsafe { dw.finish() }
}

/// `dy` in words of two positions, by panel of output channels: `plane` rows of `width` for each
/// image, of which those past the output are zero, and a tile of zeros.
fn turn(
    level: Level,
    pairs: Pairs,
    dy: &[f32],
    s: &ConvShape,
    p: &Plan,
    width: usize,
    turned: &mut [f32],
) {
    let co = s.out_channels;
    let (panels, values) = (co.div_ceil(width), p.g.positions());
    let (words, panel) = (values / 2, turned.len() / co.div_ceil(width));
    let to = Shared::new(turned.as_mut_ptr());
    parallel::for_each(s.batch * panels, 8 * dy.len(), |task| {
        let (n, o) = (task / panels, task % panels * width);
        let rows = (co - o).min(width);
        let at = o / width * panel + n * p.plane * width;
        let last = if n + 1 == s.batch { TILE } else { 0 };
        scratch(rows * words, |room| {
            let room = room.as_mut_ptr();
            // SAFETY: channels o..o + rows of image n are inside dy; each task writes rows of its
            // own.
            unsafe {
                pairs.rows(dy[(n * co + o) * values..].as_ptr(), values, rows, values, room, words);
                level.run(Transpose::new(room, words, rows, words, to.at(at), width, width));
                let gap = (p.plane - words + last) * width;
                std::slice::from_raw_parts_mut(to.at(at + words * width), gap).fill(0.0);
            }
        });
    });
}

/// The panels of [`turn`] from the first image of a task on.
struct Right {
    b: *const f32,
    width: usize,
    panel: usize,
}

/// `sums[(channel, tap), o] = sum over images and positions` for `channels` channels of `images`
/// images, which `channel` finds.
///
/// # Safety
/// `channel` returns readable channels; `sums` is writable for `channels * taps` rows of the output
/// channels; the panels hold the images' rows and a tile more.
#[allow(clippy::too_many_arguments)]
unsafe fn sum(
    pairs: Pairs,
    channel: impl Fn(usize, usize, &mut [f32]) -> *const f32,
    s: &ConvShape,
    p: &Plan,
    channels: usize,
    images: usize,
    right: Right,
    sums: *mut f32,
) {
    let (co, image, taps) = (s.out_channels, s.height * s.width, p.taps);
    let ready = pairs.tiles().map(|t| t.ready());
    let copies = p.g.copies(TILE).map(|c| c.apart(2 * p.stack));
    let lengths = [channels.next_multiple_of(TILE) * p.channel, image.div_ceil(2), image];
    scratch(lengths.iter().sum(), |buffer| {
        let [stacks, words, room] = split(buffer, lengths);
        for n0 in (0..images).step_by(p.group) {
            let group = (images - n0).min(p.group);
            for c in 0..channels {
                let of_channel = halves(&mut stacks[c * p.channel..][..p.planes * p.stack]);
                for n in 0..group {
                    let from = channel(n0 + n, c, room);
                    if let Some(copies) = &copies {
                        let to = of_channel[2 * n * p.plane..].as_mut_ptr();
                        // SAFETY: the channel and, in each stack, the plane of one image.
                        unsafe { pairs.copies_of_values(from, image, to, copies) };
                        continue;
                    }
                    // SAFETY: both are as long as one channel.
                    unsafe { pairs.rows(from, 0, 1, image, words.as_mut_ptr(), 0) };
                    let from = &halves(words)[..image];
                    for (index, stack) in of_channel.chunks_exact_mut(2 * p.stack).enumerate() {
                        p.g.fill_plane(index, from, &mut stack[2 * n * p.plane..][..2 * p.plane]);
                    }
                }
                for stack in of_channel.chunks_exact_mut(2 * p.stack) {
                    stack[2 * group * p.plane..].fill(0);
                }
            }
            let depth = (group * p.plane).next_multiple_of(TILE);
            for k0 in (0..depth).step_by(KC) {
                let mut m = Block::<false, false>::new(channels, co, (depth - k0).min(KC));
                (m.a_step, m.tiled) = (p.channel, true);
                m.b = right.b.wrapping_add((n0 * p.plane + k0) * right.width);
                (m.ldb, m.b_panel, m.b_padded) = (right.width, right.panel, true);
                (m.ldc, m.init) = (taps * co, Init::load_if(n0 + k0 > 0));
                for tap in 0..taps {
                    m.a = stacks.as_ptr().wrapping_add(p.g.tap(tap, p.stack * 2) / 2 + k0);
                    m.c = sums.wrapping_add(tap * co);
                    let level = level();
                    // SAFETY: a tap leaves the sum's words in its stack, which ends in zeros; the
                    // caller vouches for the rest.
                    unsafe { m.ready().compute_ready(level, Some(pairs), ready.as_ref()) };
                }
            }
        }
    });
}

/// Words as the bf16 values that they hold.
fn halves(words: &mut [f32]) -> &mut [u16] {
    let len = 2 * words.len();
    // SAFETY: every bit pattern is valid for both, u16 needs less alignment, and the length in
    // bytes is the same.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
}
