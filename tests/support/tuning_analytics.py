"""What SageMaker's SDK makes of a tuning job's training jobs: `python -m tests.support.tuning_analytics SUMMARIES`.

A process of its own, since the SDK warns, logs and looks for a home folder. SUMMARIES is a JSON file of what the API
lists, times as texts; the dataframe is printed as JSON. Of AWS there is nothing but the one call that the SDK makes.
"""

import json
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sagemaker.analytics import HyperparameterTuningJobAnalytics

PAGE = 2
"""Summaries in an answer: the SDK has to ask again."""


class Client:
    """Answers as the API does, page by page."""

    def __init__(self, summaries: list[dict[str, Any]]) -> None:
        self._summaries = summaries

    def list_training_jobs_for_hyper_parameter_tuning_job(self, **asked: Any) -> dict[str, Any]:
        """A page, and the token of the next one."""
        start = int(asked.get("NextToken", 0))
        more = {"NextToken": str(start + PAGE)} if start + PAGE < len(self._summaries) else {}
        return {"TrainingJobSummaries": self._summaries[start : start + PAGE], **more}


def main(path: Path) -> None:
    """Print columns and rows."""
    summaries = json.loads(path.read_text())
    for summary in summaries:
        for name in ("TrainingStartTime", "TrainingEndTime"):
            if name in summary:
                summary[name] = datetime.fromisoformat(summary[name])
    session: Any = SimpleNamespace(sagemaker_client=Client(summaries))
    frame = HyperparameterTuningJobAnalytics("job", sagemaker_session=session).dataframe()
    print("FRAME", frame.to_json(orient="split", date_format="iso"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
