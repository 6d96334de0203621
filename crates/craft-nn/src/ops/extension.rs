//! The door between Burn's automatic differentiation and the CPU kernels.
//!
//! A [`CpuOp`] is a function of one to nine float tensors with a hand-written backward pass, both
//! over plain slices. One backend extension carries every such operation, so that a new kernel
//! needs no glue of its own. The operations are reached on the `flex` backend only; [`super`] falls
//! back to Burn's own operations elsewhere.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, ExtensionType, Flex, backend_extension,
};
use burn::tensor::{DType, Tensor, TensorData, bf16};
use half::slice::HalfFloatSliceExt;

use super::profile::{Phase, timed};

/// What a forward pass returns: the output with its shape, and what the backward pass wants kept.
pub(crate) struct Forward {
    pub(crate) output: Vec<f32>,
    pub(crate) shape: Vec<usize>,
    pub(crate) saved: Vec<Vec<f32>>,
}

impl Forward {
    pub(crate) fn plain(output: Vec<f32>, shape: &[usize]) -> Self {
        Self { output, shape: shape.to_vec(), saved: Vec::new() }
    }
}

/// What a backward pass is given. `inputs` are empty slices where [`CpuOp::keeps`] said no.
pub(crate) struct Saved<'a> {
    pub(crate) inputs: &'a [&'a [f32]],
    pub(crate) output: &'a [f32],
    pub(crate) saved: &'a [Vec<f32>],
    pub(crate) grad: &'a [f32],
    /// Which inputs want a gradient.
    pub(crate) wants: &'a [bool],
}

/// Most inputs of an operation.
pub(crate) const INPUTS: usize = 9;

/// An operation over host slices with its backward pass.
pub(crate) trait CpuOp: Debug + Send + Sync + 'static {
    /// Computes the output from contiguous inputs.
    fn forward(&self, inputs: &[&[f32]]) -> Forward;

    /// The output alone, where no backward pass will follow.
    fn output(&self, inputs: &[&[f32]]) -> Forward {
        self.forward(inputs)
    }

    /// Gradients with respect to the inputs, `None` where not wanted, or where the gradient
    /// [`passes`](Self::passes).
    fn backward(&self, s: Saved<'_>) -> Vec<Option<Vec<f32>>>;

    /// The inputs whose gradient is that of the output: it is handed on without a copy.
    fn passes(&self) -> [bool; INPUTS] {
        [false; INPUTS]
    }

    /// Which inputs the backward pass reads.
    fn keeps(&self) -> [bool; INPUTS] {
        [true; INPUTS]
    }

    /// Whether the backward pass reads the output.
    fn keeps_output(&self) -> bool {
        false
    }

    /// What a profile counts it as.
    fn phase(&self) -> Phase;

    /// Multiplications and additions of matmuls in the forward pass, and in the backward pass
    /// where all gradients are wanted.
    fn flops(&self) -> [f64; 2] {
        [0.0; 2]
    }

    /// Share of the latter where only some of the gradients are.
    fn share(&self, _wants: &[bool]) -> f64 {
        1.0
    }
}

/// Shared handle of an operation.
pub(crate) type OpRef = Arc<dyn CpuOp>;

/// Any number of tensors, of which the extension macro would want each by name.
pub(crate) struct Inputs<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> ExtensionType<B> for Inputs<B> {
    type Target = Inputs<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |t| DispatchTensor { kind: map_kind(BackendTensor::Float(t)), autodiff };
        Inputs(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Self(target.0.into_iter().map(|t| unwrap_kind(t).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let contexts = target.0.iter().map(|t| t.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, DispatchAutodiffContext::merge)
    }
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait CpuOps: Backend {
    fn cpu_op(#[extension_type] inputs: Inputs<Self>, op: OpRef) -> FloatTensor<Self>;
}

type Host = FloatTensor<Flex>;

/// The values of a contiguous tensor; bf16 weights become f32 here, for one use.
fn slice(t: &Host) -> Cow<'_, [f32]> {
    let Some((start, end)) = t.layout().contiguous_offsets() else {
        unreachable!("tensors are made contiguous before they are read");
    };
    match t.dtype() {
        DType::BF16 => {
            Cow::Owned(craft_kernels::widen(t.storage::<bf16>()[start..end].reinterpret_cast()))
        }
        _ => Cow::Borrowed(&t.storage::<f32>()[start..end]),
    }
}

fn host(data: Vec<f32>, shape: Vec<usize>) -> Host {
    Host::from_data(TensorData::new(data, shape))
}

/// The output, and what the backward pass wants kept, if there will be one.
fn run(op: &OpRef, inputs: &[Host], tracked: bool) -> (Host, Vec<Vec<f32>>) {
    let inputs: Vec<Host> = inputs.iter().map(Host::to_contiguous).collect();
    let values: Vec<Cow<'_, [f32]>> = inputs.iter().map(slice).collect();
    let slices: Vec<&[f32]> = values.iter().map(AsRef::as_ref).collect();
    let forward = timed(op.phase(), op.flops()[0], || {
        if tracked { op.forward(&slices) } else { op.output(&slices) }
    });
    (host(forward.output, forward.shape), forward.saved)
}

impl CpuOps for Flex {
    fn cpu_op(inputs: Inputs<Self>, op: OpRef) -> FloatTensor<Self> {
        run(&op, &inputs.0, false).0
    }
}

#[derive(Clone, Debug)]
struct State<const N: usize> {
    op: OpRef,
    nodes: [Option<NodeId>; N],
    shapes: [Vec<usize>; N],
    output: Option<Host>,
    saved: Arc<Vec<Vec<f32>>>,
}

#[derive(Debug)]
struct CpuBackward;

impl<const N: usize> Backward<Flex, N> for CpuBackward {
    type State = State<N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let upper = grads.consume::<Flex>(&ops.node).to_contiguous();
        let state = ops.state;
        let inputs: Vec<Option<Host>> = state
            .nodes
            .iter()
            .map(|node| {
                node.map(|id| checkpointer.retrieve_node_output::<Host>(id).to_contiguous())
            })
            .collect();
        let values: Vec<Cow<'_, [f32]>> =
            inputs.iter().map(|t| t.as_ref().map_or(Cow::Borrowed(&[][..]), slice)).collect();
        let slices: Vec<&[f32]> = values.iter().map(AsRef::as_ref).collect();
        let op = &state.op;
        let passes = op.passes();
        let wants: Vec<bool> =
            ops.parents.iter().zip(passes).map(|(p, passes)| p.is_some() && !passes).collect();
        let output = state.output.as_ref().map_or(Cow::Borrowed(&[][..]), slice);
        let grad = slice(&upper);
        let saved = Saved {
            inputs: &slices,
            output: &output,
            saved: &state.saved,
            grad: &grad,
            wants: &wants,
        };
        let flops = op.flops()[1] * op.share(&wants);
        let results = timed(op.phase(), flops, || op.backward(saved));
        drop(grad);
        let parents = ops.parents.into_iter().zip(passes).zip(results).zip(state.shapes);
        for (((parent, passes), result), shape) in parents {
            match (parent, result) {
                (Some(parent), _) if passes => grads.register::<Flex>(parent.id, upper.clone()),
                (Some(parent), Some(result)) => {
                    grads.register::<Flex>(parent.id, host(result, shape));
                }
                _ => {}
            }
        }
    }
}

type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

fn track<C: CheckpointStrategy, const N: usize>(inputs: [Tracked<C>; N], op: OpRef) -> Tracked<C> {
    let guards = inputs.each_ref().map(|t| t.node());
    match CpuBackward.prepare::<C>(guards).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let keeps = op.keeps();
            let mut nodes = [None; N];
            for (i, input) in inputs.iter().enumerate() {
                if keeps[i] {
                    nodes[i] = Some(prep.checkpoint(input));
                }
            }
            let shapes = inputs.each_ref().map(|t| t.primitive().layout().shape().to_vec());
            let primitives = inputs.map(|t| t.into_primitive());
            let (output, saved) = run(&op, &primitives, true);
            let kept = op.keeps_output().then(|| output.clone());
            let state = State { op, nodes, shapes, output: kept, saved: Arc::new(saved) };
            prep.finish(state, output)
        }
        OpsKind::UnTracked(prep) => {
            let primitives = inputs.map(|t| t.into_primitive());
            prep.finish(run(&op, &primitives, false).0)
        }
    }
}

/// [`track`] with the number of inputs, one of those named, as a constant.
macro_rules! track_any {
    ($inputs:ident, $op:ident; $($n:literal)*) => {
        match $inputs.len() {
            $($n => track::<C, $n>(exactly($inputs), $op),)*
            n => unreachable!("no operation has {n} inputs"),
        }
    };
}

fn exactly<T, const N: usize>(inputs: Vec<T>) -> [T; N] {
    inputs.try_into().unwrap_or_else(|_| unreachable!("the length was looked at"))
}

impl<C: CheckpointStrategy> CpuOps for Autodiff<Flex, C> {
    fn cpu_op(inputs: Inputs<Self>, op: OpRef) -> FloatTensor<Self> {
        let inputs = inputs.0;
        track_any!(inputs, op; 1 2 3 4 5 6 7 8 9)
    }
}

/// Applies an operation.
pub(crate) fn apply<const O: usize>(inputs: Vec<DispatchTensor>, op: impl CpuOp) -> Tensor<O> {
    let op: OpRef = Arc::new(op);
    Tensor::from_dispatch(<Dispatch as CpuOps>::cpu_op(Inputs(inputs), op))
}

/// Applies an operation of one tensor.
pub(crate) fn apply1<const A: usize, const O: usize>(a: Tensor<A>, op: impl CpuOp) -> Tensor<O> {
    apply(vec![a.into_dispatch()], op)
}

/// Applies an operation of two tensors.
pub(crate) fn apply2<const A: usize, const B: usize, const O: usize>(
    a: Tensor<A>,
    b: Tensor<B>,
    op: impl CpuOp,
) -> Tensor<O> {
    apply(vec![a.into_dispatch(), b.into_dispatch()], op)
}

/// Applies an operation of three tensors.
pub(crate) fn apply3<const A: usize, const B: usize, const C: usize, const O: usize>(
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
    op: impl CpuOp,
) -> Tensor<O> {
    apply(vec![a.into_dispatch(), b.into_dispatch(), c.into_dispatch()], op)
}
