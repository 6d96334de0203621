//! The backward pass.

use super::{FusedAttention, FusedAttentionShape, Projected, Weights};
use crate::attention::Above;
use crate::buffer::{Output, Shared, scratch, split};
use crate::gemm::Init;
use crate::gemm::operands::{Format, Multiplier};
use crate::linear_gradients::{WeightSums, rows_and_tasks, total};
use crate::parallel;
use crate::rows::AddRow;
use crate::simd::level;

/// Gradients of [`fused_attention`](super::fused_attention); those of the weights and of the
/// context where they are wanted.
pub struct FusedAttentionGradients {
    /// Gradient of `x`.
    pub x: Vec<f32>,
    /// Gradients of the norm's weight and bias.
    pub norm: [Vec<f32>; 2],
    /// Gradient of the context.
    pub context: Option<Vec<f32>>,
    /// Gradients of `wq`, `wk`, `wv`, `wo` and `bo`.
    pub weights: Option<[Vec<f32>; 5]>,
}

/// Gradients of [`fused_attention`](super::fused_attention), from its inputs, what it kept, and
/// `dy` in the shape of its output; the bias `bo` is not read.
///
/// # Panics
/// Where [`fuses_attention`](crate::fuses_attention) says no.
#[must_use]
pub fn fused_attention_backward(
    p: &FusedAttention<'_>,
    [out, lse]: [&[f32]; 2],
    dy: &[f32],
    s: &FusedAttentionShape,
    (of_context, of_weights): (bool, bool),
) -> FusedAttentionGradients {
    s.check(p);
    let level = level();
    let format = Format::active(level);
    let (a, maps) = (s.attention, s.maps());
    let [[width, inner], [context, both], _] = maps;
    let (m, group) = (a.batch * a.queries, s.group());
    assert!(dy.len() == m * width && out.len() == m * inner, "dy and the heads' outputs");
    assert_eq!(lse.len(), m * a.heads, "logarithms");
    let of_context = of_context && p.context.is_some();
    // Sequences of a task.
    let each = rows_and_tasks(m)[0].div_ceil(a.queries).next_multiple_of(group);
    let tasks = a.batch.div_ceil(each);
    let mut dx = Output::new(m * width);
    let mut dc = Output::new(if of_context { a.batch * a.keys * context } else { 0 });
    let (to_x, to_c) = (dx.ptr(), dc.ptr());
    let [q, kv, stacked, room] = Weights::lengths(format, s);
    let sums = maps.map(|map| if of_weights { tasks * WeightSums::len(map) } else { 0 });
    let lengths = [
        q,
        kv,
        stacked,
        room,
        format.columns_len(inner, width),
        format.columns_len(both, context),
        format.columns_len(width, inner),
        tasks * 2 * width,
        sums[0],
        sums[1],
        sums[2],
    ];
    scratch(lengths.iter().sum(), |shared| {
        let [q, kv, stacked, room, from_q, from_kv, from_y, norms, sums_q, sums_kv, sums_o] =
            split(shared, lengths);
        // SAFETY: wq holds `inner` rows of `width`, wo `width` rows of `inner`, and the weights of
        // keys and values together `both` rows.
        let (weights, from_q, from_kv, from_y) = unsafe {
            let m = Multiplier::new(format);
            let weights = Weights::pack(&m, p, s, [q, kv, &mut *stacked, room]);
            (
                weights,
                m.columns(p.wq.as_ptr(), width, [inner, width], width, from_q),
                m.columns(stacked.as_ptr(), context, [both, context], context, from_kv),
                m.columns(p.wo.as_ptr(), inner, [width, inner], inner, from_y),
            )
        };
        let all =
            [&mut *sums_q, &mut *sums_kv, &mut *sums_o].map(|sums| Shared::new(sums.as_mut_ptr()));
        let norms_at = Shared::new(norms.as_mut_ptr());
        parallel::for_each(tasks, 3 * s.flops(), |task| {
            let multiplier = Multiplier::new(format);
            // SAFETY: the buffers hold the sums of all tasks.
            let mut sums = of_weights.then(|| unsafe {
                [0, 1, 2].map(|i| WeightSums::of(all[i], task, tasks, maps[i]))
            });
            // SAFETY: each task has 2 * width values of the buffer to itself.
            let of_norm =
                unsafe { std::slice::from_raw_parts_mut(norms_at.at(task * 2 * width), 2 * width) };
            of_norm.fill(0.0);
            let (queries, keys) = (group * a.queries, group * a.keys);
            let parts = Projected::lengths(format, s);
            let words =
                [[queries, inner.max(width)], [keys, both]].map(|rows| format.rows_len(rows));
            let own = [
                queries * inner,
                queries * inner,
                keys * both,
                queries * width,
                words[0].max(words[1]),
                maps.map(|map| WeightSums::room(format, map)).into_iter().max().unwrap_or(0),
            ];
            scratch(parts.iter().chain(&own).sum(), |buffer| {
                let (buffer, rest) = buffer.split_at_mut(parts.iter().sum());
                let mut projected = Projected::new(split(buffer, parts));
                let [dout, dq, dkv, dnormed, packed, room] = split(rest, own);
                let last = ((task + 1) * each).min(a.batch);
                for first in (task * each..last).step_by(group) {
                    let count = (last - first).min(group);
                    let (rows, of_keys) = (count * a.queries, count * a.keys);
                    let at = first * a.queries;
                    let dy = &dy[at * width..][..rows * width];
                    let out = &out[at * inner..][..rows * inner];
                    projected.fill(level, &multiplier, (p, s), &weights, [first, count]);
                    // SAFETY: the buffers hold the rows of a group of sequences.
                    unsafe {
                        let dy = multiplier.rows(dy.as_ptr(), width, [rows, width], packed);
                        let (shape, to) = ([rows, format.depth(width), inner], dout.as_mut_ptr());
                        multiplier.product(shape, dy, from_y, to, Init::Zero);
                    }
                    for (n, h) in (0..count).flat_map(|n| (0..a.heads).map(move |h| (n, h))) {
                        let at = n * a.queries * inner + h * a.head_dim;
                        let above = Above {
                            out: &out[at..],
                            dout: &dout[at..],
                            ld: inner,
                            lse: &lse[((first + n) * a.heads + h) * a.queries..],
                        };
                        let key_at = n * a.keys * both + h * a.head_dim;
                        let to_k = dkv[key_at..].as_mut_ptr();
                        let to_v = dkv[key_at + inner..].as_mut_ptr();
                        let to_q = dq[at..].as_mut_ptr();
                        let head = projected.head(s, n, h);
                        // SAFETY: the buffers hold the rows of a group of sequences.
                        unsafe { head.backward(level, &multiplier, &above, to_q, to_k, to_v) };
                    }
                    let (dq, dkv) = (&dq[..rows * inner], &dkv[..of_keys * both]);
                    let normed = &projected.normed[..rows * width];
                    let dnormed = &mut dnormed[..rows * width];
                    let x = &p.x[at * width..][..rows * width];
                    // SAFETY: as above; rows of dx and of the context's gradient are this task's
                    // own.
                    unsafe {
                        let dq = multiplier.rows(dq.as_ptr(), inner, [rows, inner], packed);
                        let (shape, to) =
                            ([rows, format.depth(inner), width], dnormed.as_mut_ptr());
                        multiplier.product(shape, dq, from_q, to, Init::Zero);
                        if of_context || p.context.is_none() {
                            let dkv = multiplier.rows(dkv.as_ptr(), both, [of_keys, both], packed);
                            let (to, init) = match p.context {
                                Some(_) => (to_c.at(first * a.keys * context), Init::Zero),
                                None => (dnormed.as_mut_ptr(), Init::Load),
                            };
                            let shape = [of_keys, format.depth(both), context];
                            multiplier.product(shape, dkv, from_kv, to, init);
                        }
                        let dx = std::slice::from_raw_parts_mut(to_x.at(at * width), rows * width);
                        p.norm.rows_backward(level, x, dnormed, projected.stats, dx, of_norm);
                        level.run(AddRow::new(dx.as_mut_ptr(), dy));
                    }
                    if let Some([of_q, of_kv, of_o]) = &mut sums {
                        let seen = match p.context {
                            Some(c) => &c[first * a.keys * context..][..of_keys * context],
                            None => normed,
                        };
                        of_q.add(level, &multiplier, normed, dq, room);
                        of_kv.add(level, &multiplier, seen, dkv, room);
                        of_o.add(level, &multiplier, out, dy, room);
                    }
                }
            });
        });
        let weights = of_weights.then(|| {
            let [dwq, _] = WeightSums::total(format, sums_q, tasks, maps[0]);
            let [mut dwk, _] = WeightSums::total(format, sums_kv, tasks, maps[1]);
            let dwv = dwk.split_off(inner * context);
            let [dwo, dbo] = WeightSums::total(format, sums_o, tasks, maps[2]);
            [dwq, dwk, dwv, dwo, dbo]
        });
        let mut of_norm = total(norms, tasks);
        let db = of_norm.split_off(width);
        // SAFETY: the tasks cover all sequences.
        let (x, context) = unsafe { (dx.finish(), of_context.then(|| dc.finish())) };
        FusedAttentionGradients { x, norm: [of_norm, db], context, weights }
    })
}
