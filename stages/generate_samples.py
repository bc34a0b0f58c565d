"""Continue the prompts of params.yaml with the model.

Reads:  models/toygpt/
Writes: reports/samples/, metrics/generate-samples.json
"""

import json

from toygpt.explaining.length import NEW_TOKENS
from toygpt.explaining.page import explain
from toygpt.generation.packed import pack
from toygpt.generation.samples import Sample, continue_prompts, to_markdown
from toygpt.model.device import device_for
from toygpt.model.huggingface import weights_digest
from toygpt.model.loading import LoadedModel, load_model_and_tokenizer
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, write_json, write_text
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run
from toygpt.tracking.run import run_of_model
from toygpt.tracking.settings import with_environment


def main() -> None:
    params = load_params(paths.PARAMS)
    device = device_for(params.runtime.accelerator)
    model, tokenizer, end_of_text_id = load_model_and_tokenizer(paths.MODEL, device)

    digest = weights_digest(paths.MODEL)
    # The trackers are opened while the model writes.
    with run_of_model(
        digest,
        tracking=with_environment(params.tracking),
        root=paths.main_root(),
    ) as tracked:
        samples = continue_prompts(
            pack(model),
            tokenizer,
            params.generate_samples.prompts,
            max_new_tokens=params.generate_samples.max_new_tokens,
            end_of_text_id=end_of_text_id,
        )
        num_new_tokens = sum(sample.new_tokens for sample in samples)
        page = explain(
            LoadedModel(model.cpu(), tokenizer, end_of_text_id),
            params.generate_samples.prompts[0],
            max_new_tokens=min(NEW_TOKENS, params.generate_samples.max_new_tokens),
            digest=digest,
            may_cut=True,
        )
        with new_directory(paths.SAMPLES) as directory:
            write_text(directory / "samples.jsonl", "".join(map(as_line, samples)))
            write_text(directory / "samples.md", to_markdown(samples))
            write_text(directory / "explain.html", page)
        write_json(
            paths.METRICS / "generate-samples.json",
            {"samples": len(samples), "new_tokens": num_new_tokens},
        )
        tracked.log_directory(paths.SAMPLES, name="samples")
    print(
        f"{len(samples)} prompts continued by {num_new_tokens} tokens: see "
        f"{paths.SAMPLES / 'samples.md'}, and {paths.SAMPLES / 'explain.html'} for how "
        f"the first came about"
    )


def as_line(sample: Sample) -> str:
    """Return a sample as a line of JSON."""
    return json.dumps(sample._asdict(), ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run(main)
