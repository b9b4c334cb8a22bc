"""Where the network looked: class activation maps, by ONNX Runtime whatever engine gives the labels.

Of a network that ends in a mean over all places and one linear layer, the logit of a label is a mean too, of what each
place has to say for that label. Source: Zhou et al. 2016 (arXiv 1512.04150), section 2.

The bundle keeps the few nodes that compute this in a file of their own, so that labels cost no more than without them:
ONNX Runtime runs every node of a graph, also those whose output nobody asks for. Protocol buffers are made so that two
messages one after the other are one message, with the lists of both: model.onnx and that file together are a graph.
"""

import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.bundle import ACTIVATION_MAP, ONNX_MODEL, Bundle, size_bytes
from serving.errors import EngineError, MapNotFound
from serving.machine import check_memory
from serving.preprocess import Pixels

Maps = NDArray[np.float32]
"""(N, K, h, w); the mean over h and w, with the classifier's bias added, is the logits."""
OUTPUT: Final = "activation_map"


class ActivationMaps:
    """The maps of one bundle; the model is loaded a second time when somebody asks for the first one.

    Args:
        bundle: With the file or without.
        threads: As for an engine.
    """

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle = bundle
        self._threads = threads
        self._session: Any = None
        self._opening = threading.Lock()

    @property
    def are_there(self) -> bool:
        """Whether the bundle can tell."""
        return ACTIVATION_MAP in self._bundle.manifest.files

    def open(self) -> None:
        """Load the graph, if it is not loaded yet; from any thread.

        Raises:
            MapNotFound: The bundle has none.
            OutOfMemory: There is no room for a second copy of the weights.
            BundleError: ONNX Runtime does not load it.
        """
        if not self.are_there:
            raise MapNotFound(
                f"this bundle has no {ACTIVATION_MAP}: its network does not end in a mean over all places and one "
                "linear layer, at its image size there is but one place, or an earlier version wrote it; train's log "
                "says which"
            )
        with self._opening:
            if self._session is None:
                self._session = self._load()

    def infer(self, pixels: Pixels) -> Maps:
        """Maps of a batch (N, H, W, 3) of the bundle's height and width; from one thread at a time.

        Raises:
            EngineError: The runtime failed.
            MapNotFound, OutOfMemory, BundleError: As for `open`.
        """
        self.open()
        try:
            (maps,) = self._session.run([OUTPUT], {self._session.get_inputs()[0].name: pixels})
        except Exception as error:  # the runtime's exceptions share no base class
            raise EngineError(f"ONNX Runtime failed on the activation maps of {len(pixels)}: {error}") from error
        return np.asarray(maps, dtype=np.float32)

    def _load(self) -> Any:
        from serving.engines.onnx_engine import open_session  # not needed to label with torch

        model = self._bundle.file(ONNX_MODEL)
        check_memory("the model with its activation maps", size_bytes(model.parent), "give the server more")
        return open_session(model, self._threads, self._bundle.file(ACTIVATION_MAP))
