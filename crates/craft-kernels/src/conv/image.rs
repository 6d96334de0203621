//! What a pass over images reads, and what its outputs start from.

use crate::group_norm::GroupNormSilu;
use crate::simd::Level;

/// An image that a [`Pass`](super::forward::Pass) reads.
#[derive(Clone, Copy)]
pub(super) enum Image<'a> {
    /// As it is.
    Plain(&'a [f32]),
    /// Through a norm and SiLU, with these statistics of its groups.
    Normed(&'a [f32], GroupNormSilu<'a>, &'a [f32]),
}

impl<'a> Image<'a> {
    /// Some `[first, count]` channels of `size` values, in the image itself or in `room`.
    #[inline]
    pub(super) fn channels<'b>(
        self,
        level: Level,
        [first, count]: [usize; 2],
        size: usize,
        room: &'b mut [f32],
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::Plain(x) => &x[first * size..][..count * size],
            Self::Normed(x, norm, stats) => {
                for (c, room) in (first..first + count).zip(room.chunks_exact_mut(size)) {
                    norm.channel(level, &x[c * size..][..size], c, stats, room);
                }
                &room[..count * size]
            }
        }
    }
}

/// What the outputs of a [`Pass`](super::forward::Pass) start from; biases are one for each output
/// channel of the whole, images of all of them.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    Bias(&'a [f32]),
    Sum(&'a [f32], &'a [f32]),
}
