//! The UNet behind the door of denoisers.

use burn::tensor::{Gradients, Tensor};
use craft_nn::unet::AddedCondition;
use craft_nn::unet_blocks::UNetInputs;

use super::UNet;
use crate::condition::Condition;
use crate::denoiser::{Backward, Input, Kept, Network};

/// What SDXL's UNet takes beside the states.
fn added(condition: &Condition) -> Option<AddedCondition> {
    let text_embeds = condition.pooled.clone()?;
    Some(AddedCondition { text_embeds, time_ids: condition.ids.clone() })
}

impl Network for UNet {
    fn predict(&self, input: Input<'_>) -> Tensor<4> {
        let Input { latents, times, condition } = input;
        self.forward(latents, times, &condition.states, added(condition).as_ref())
    }

    fn backward_by_block(
        &self,
        input: Input<'_>,
        wants_text: bool,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
        take: &mut dyn FnMut(Gradients),
    ) -> Backward {
        let added = added(input.condition);
        let inputs = UNetInputs {
            sample: input.latents,
            timesteps: input.times,
            context: &input.condition.states,
            added: added.as_ref(),
        };
        UNet::backward_by_block(self, inputs, wants_text, loss, take)
    }

    fn kept_values(&self, height: usize, width: usize) -> Kept {
        UNet::kept_values(self, height, width)
    }
}
