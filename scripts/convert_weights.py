"""Weights of finished runs, made into others.

python scripts/convert_weights.py export-lora --lora runs/a --output a.safetensors
"""

from diffpo.cli.verbs import Verb, launch_verb

VERBS = {
    "mix-negative": Verb(
        "diffpo.commands.mix_negative", "a negative for guidance, of a base and what was tuned on it"
    ),
    "extrapolate": Verb("diffpo.commands.extrapolate", "momentum between rounds, as a step of weights"),
    "export-lora": Verb("diffpo.commands.export_lora", "a LoRA for A1111, Forge and ComfyUI"),
}

if __name__ == "__main__":
    launch_verb("scripts/convert_weights.py", VERBS)
