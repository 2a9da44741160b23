"""The model card that is written beside the weights."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from diffpo import __version__
from diffpo.diffusion.data import PairData
from diffpo.diffusion.loading import StableDiffusion

FULL = """from diffusers import StableDiffusionPipeline, UNet2DConditionModel

unet = UNet2DConditionModel.from_pretrained("{folder}", subfolder="unet")
pipe = StableDiffusionPipeline.from_pretrained("{base}", unet=unet)"""
LORA = """from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("{base}")
pipe.load_lora_weights("{folder}")"""


def write_card(
    folder: Path, base: StableDiffusion, data: PairData, ema: float | None, report: str, settings: str
) -> None:
    """Write `README.md`: what was tuned on what and how, how to load it, what was lost on the way.

    Args:
        ema: decay of the moving average that the weights are, or None.
        report: what became of the data, for the record.
        settings: the resolved config.
    """
    load = (FULL if base.adapter is None else LORA).format(folder=folder, base=base.path)
    averaged = (
        f"The weights are the moving average of the run (decay {ema})."
        if ema
        else "The weights are the last of the run."
    )
    text = f"""# {folder.resolve().name}

`{base.path}` tuned on image preferences with diffpo {__version__}. {averaged}

```python
{load}
```

{other_parts(base)}Data: `{data.source}`

{report}

The whole recipe:

```yaml
{settings.strip()}
```
"""
    tags = ["diffusers", "text-to-image", "diffusion-dpo", "diffpo"]
    facts = ModelCardData(library_name="diffusers", base_model=base.path, tags=tags)
    ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{text}").save(folder / "README.md")


def other_parts(base: StableDiffusion) -> str:
    """What else the pipeline needs: parts that replaced those of the base and are not among the weights."""
    parts = {"vae": base.vae} | ({} if base.adapter is None else {"unet": base.unet})
    named = [f"`{name}=` with the one of `{path}`" for name, path in parts.items() if path is not None]
    return f"Give `from_pretrained` also {' and '.join(named)}: it was tuned with that.\n\n" if named else ""
