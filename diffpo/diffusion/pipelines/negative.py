"""Pipelines whose guidance leads away from what people dislike (Diffusion-NPO, arXiv:2505.11245).

    eps = eps_neg(x_t, t, c') + g (eps_pos(x_t, t, c) - eps_neg(x_t, t, c'))

c' is the empty or the negative prompt, g the guidance scale. With a weaker network as the negative this is
AutoGuidance (arXiv:2406.02507). The published code (github.com/G-U-N/Diffusion-NPO) copies two whole pipelines; here
the calls of the network are routed, so whatever a pipeline of diffusers can do stays.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, get_type_hints

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.ip_adapters import NegativeIPAdapterMixin
from diffpo.diffusion.pipelines.negative_networks import (
    NEGATIVE,
    add_difference,
    attach_negative,
    merged_copy,
    read_adapters,
    read_difference,
    read_full,
    require_same_architecture,
)
from diffpo.diffusion.pipelines.negative_parts import require_known_range
from diffpo.diffusion.pipelines.routing import CONDITIONAL_FIRST, arguments_of, route_calls, uncompiled_network
from diffpo.lora.switch import Scales, adapted, switched


class NegativeGuidanceMixin:
    """Stands before a pipeline of diffusers: `class Negative(NegativeGuidanceMixin, CogVideoXPipeline): pass`.

    The pipeline gains the component `negative_unet`, or `negative_transformer` if its network is a transformer.
    Without a negative it is the stock pipeline, bit for bit. With one, the unconditional half of guidance is the
    negative's; with guidance off the negative is not called.

    The negative is not in `model_cpu_offload_seq`: each network there moves the one before it off the device, so two
    that take turns at every step would move at every step. Outside of it a network stays until the picture is done.
    """

    guided_part: ClassVar[str]
    negative_part: ClassVar[str]
    negative_adapters: Scales

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Extend the signature of `__init__`: diffusers reads components and their types off it."""
        super().__init_subclass__(**kwargs)
        stock = cls.__init__
        signature = inspect.signature(stock)
        part = next(name for name in ("unet", "transformer") if name in signature.parameters)
        negative = f"negative_{part}"
        if negative in signature.parameters:
            return

        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            network = kwargs.pop(negative, None)
            stock(self, *args, **kwargs)
            if network is not None:
                require_same_architecture(network, vars(self)[part], negative)
            self.register_modules(**{negative: network})
            self.negative_adapters = {}

        types = get_type_hints(stock)
        optional = types[part] | None
        keyword = inspect.Parameter(negative, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=optional)
        extended: Any = init
        extended.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])
        extended.__annotations__ = types | {negative: optional}
        cls.__init__, cls.guided_part, cls.negative_part = extended, part, negative
        cls._optional_components = [*cls._optional_components, negative]  # type: ignore[reportAttributeAccessIssue]

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock pipeline.

        Raises:
            Refusal: if a negative is loaded and the pipeline has no unconditional half that it could predict.
        """
        stock: Any = super().__call__  # type: ignore[reportAttributeAccessIssue]
        with self.negative_guidance(arguments_of(self, args, kwargs)):
            return stock(*args, **kwargs)

    def load_negative(self: Any, path: str, mix: float = 1.0, shared: bool = False) -> None:
        """Load what guidance is to lead away from, in place of the negative that is loaded.

        Args:
            path: hub id, folder or file of a whole network or a LoRA; folder or file of a weight difference, as
                `scripts/convert_weights.py mix-negative` writes it. LoRA and difference are added to the network as it
                is now, with the adapters that are active now.
            mix: how much of a LoRA or a difference is added; the published range is [0, 1].
            shared: keep one network and switch its adapters between the halves, instead of making a second one. Takes
                less memory and more time; for LoRAs.

        Raises:
            Refusal: if nothing can be read there, it is of another architecture, or of a kind that mix or shared do
                not apply to.
        """
        network = vars(self)[self.guided_part]
        require_known_range(mix=mix)
        difference = read_difference(path)
        full = None if difference else read_full(path, network, self.guided_part)
        if shared and (difference or full is not None):
            raise Refusal(f"{path} holds no LoRA, so no network can be shared; load it with shared=False.")
        if full is not None and mix != 1:
            raise Refusal(
                f"{path} holds a whole network, which mix={mix:g} does not apply to; mix it with a base by "
                "scripts/convert_weights.py mix-negative and load the result."
            )
        if difference:
            full = merged_copy(network)
            add_difference(full, difference, mix)
        elif full is None:
            lora = read_adapters(self, path, self.guided_part)
            if shared:
                self.unload_negative()
                self.negative_adapters = attach_negative(uncompiled_network(network), lora, mix)
                return
            full = merged_copy(network, lora, mix)
        self.unload_negative()
        self.register_modules(**{self.negative_part: full})
        self.maybe_free_model_hooks()  # of an offloaded pipeline: hooks the new network too

    def set_negative_adapters(self: Any, names: str | list[str], weights: float | list[float] = 1.0) -> None:
        """Choose the negative half's adapters of a shared network, all of them, as `set_adapters` does for the other.

        Mixing alpha x positive + mix x negative is `set_negative_adapters(["positive", "negative"], [alpha, mix])`.

        Raises:
            Refusal: if the network has no such adapter.
        """
        names = [names] if isinstance(names, str) else names
        scales = weights if isinstance(weights, list) else [weights] * len(names)
        have = sorted({name for layer in adapted(vars(self)[self.guided_part]) for name in layer.scaling})
        if unknown := [name for name in names if name not in have]:
            raise Refusal(f"There is no adapter {unknown[0]!r}; loaded are {', '.join(have) or 'none'}.")
        self.negative_adapters = dict(zip(names, scales, strict=True))

    def unload_negative(self: Any) -> None:
        """Become the stock pipeline."""
        network = uncompiled_network(vars(self)[self.guided_part])
        if any(NEGATIVE in layer.scaling for layer in adapted(network)):
            network.delete_adapters(NEGATIVE)
            if not any(layer.scaling for layer in adapted(network)):
                network.unload_lora()
        self.negative_adapters = {}
        self.register_modules(**{self.negative_part: None})

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As the stock pipeline's, with the negative in a folder of its own; the folder loads as the stock one too.

        Raises:
            Refusal: if the negative shares the network.
        """
        if self.negative_adapters:
            raise Refusal(
                "A negative that shares the network cannot be saved with it; load it with shared=False, or save the "
                "pipeline after unload_negative() and keep the LoRA."
            )
        super().save_pretrained(*args, **kwargs)  # type: ignore[reportAttributeAccessIssue]

    def negative_guidance(self, arguments: dict[str, Any]) -> AbstractContextManager:
        """Inside, the unconditional half goes to the negative, if there is one.

        Args:
            arguments: of `__call__`.
        """
        network, negative = vars(self)[self.guided_part], vars(self)[self.negative_part]
        if negative is None and not self.negative_adapters:
            return nullcontext()
        require_unconditional_half(network.config, arguments)
        guided = is_guided(network, arguments)
        if negative is None:
            layers = adapted(uncompiled_network(network))
            require_adapters(layers, self.negative_adapters)
            return route_calls(network, network, guided, partial(switched, layers, self.negative_adapters))
        # Loading an IP-adapter sets the attribute of the config, not the item.
        kinds = {vars(part.config).get("encoder_hid_dim_type") for part in (network, negative)}
        if len(kinds) > 1:
            raise Refusal("One of the two networks has an IP-adapter; load it after the negative, for both.")
        return route_calls(network, negative, guided)


def is_guided(network: Any, arguments: dict[str, Any]) -> bool:
    """Whether one batch holds both halves; pipelines that take true_cfg_scale call twice, and name their calls."""
    scale = arguments.get("guidance_scale")
    # Z-Image adds that many times the difference to the conditional half: above 0 there is another one.
    least = 0 if isinstance(uncompiled_network(network), CONDITIONAL_FIRST) else 1
    return scale is not None and scale > least


def require_unconditional_half(config: Any, arguments: dict[str, Any]) -> None:
    """Raise a Refusal if guidance is distilled into the network and the call does not ask for true guidance, or if it
    asks for it and names no negative prompt, without which pipelines guide nothing."""
    if config.get("time_cond_proj_dim") is not None:
        raise Refusal(
            "The guidance of this pipeline is distilled into its network (time_cond_proj_dim, as in LCM): there is no "
            "unconditional half that a negative could predict; take an undistilled base, or unload_negative()."
        )
    negative_prompt = any(arguments.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
    if not config.get("guidance_embeds") and arguments.get("true_cfg_scale", 1.0) > 1 and not negative_prompt:
        raise Refusal(
            f"true_cfg_scale {arguments['true_cfg_scale']:g} guides nothing without a negative prompt, so that a "
            'negative would not be asked; pass negative_prompt=" ", or unload_negative().'
        )
    if config.get("guidance_embeds") and not (arguments.get("true_cfg_scale", 1.0) > 1 and negative_prompt):
        raise Refusal(
            "The guidance of this pipeline is distilled into its network (guidance_embeds): without true guidance "
            "there is no unconditional half that a negative could predict; if it takes them, pass true_cfg_scale > 1 "
            "and a negative_prompt (may be empty), else unload_negative()."
        )


def require_adapters(layers: list[Any], scales: Scales) -> None:
    """Raise a Refusal if adapters of the negative half are gone, or could not be switched."""
    if gone := [name for name in scales if not any(name in layer.scaling for layer in layers)]:
        raise Refusal(f"The adapter {gone[0]!r} of the negative half is unloaded; call load_negative again.")
    if any(layer.merged for layer in layers):
        raise Refusal(
            "Adapters are fused into the network, where they cannot be switched; call unfuse_lora(), or "
            "unload_lora_weights() and then load_negative."
        )


class StableDiffusionNegativePipeline(NegativeIPAdapterMixin, NegativeGuidanceMixin, StableDiffusionPipeline):
    """Stable Diffusion 1.x and 2.x."""


class StableDiffusionXLNegativePipeline(NegativeIPAdapterMixin, NegativeGuidanceMixin, StableDiffusionXLPipeline):
    """Stable Diffusion XL."""
