"""The training image's entrypoint: `train` and what follows it are handed to the stage of that name."""

import importlib
import sys

STAGES = {
    "tune": "labelled images and a search space to the best hyperparameters",
    "train": "labelled images to a bundle",
}
"""Stage (a package here with a `__main__`) and what it does."""

USAGE = "usage: python -m components STAGE [FLAGS]\n\nstages:\n" + "".join(
    f"  {name:<10}{text}\n" for name, text in STAGES.items()
)


def main(arguments: list[str]) -> int:
    """Run the stage that the first argument names."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if not arguments or arguments[0] not in STAGES:
        found = f'"{arguments[0]}"' if arguments else "nothing"
        print(f"error: got {found}, expected a stage: {', '.join(STAGES)}; --help says what they do", file=sys.stderr)
        return 1
    stage = importlib.import_module(f"components.{arguments[0]}.__main__")
    code: int = stage.main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
