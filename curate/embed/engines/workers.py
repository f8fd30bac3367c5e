"""Where `curate embed` finds its workers: the engine, and what its devices are like."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from curate.embed.decode.decoders import check_decode
from curate.embed.decode.pool import default_decode_processes
from curate.embed.engines import Engine
from curate.embed.engines.processes import local_engine
from curate.embed.engines.ray import connected
from curate.embed.options import CORES, ComputeOptions, EmbedOptions
from curate.errors import UsageError
from curate.models.towers.precision import choose_devices, describe_device


@dataclass(frozen=True)
class Workers:
    """threads: the cores that each worker has for decoding; words: one phrase for stderr."""

    engine: Engine
    device: str
    precision: str
    threads: int
    words: str

    def compute_options(self, options: EmbedOptions) -> ComputeOptions:
        """What each worker is told. Raises: UsageError for a way to decode that is none, or not the device's."""
        check_decode(options.decode, self.device)
        processes = options.decode_processes
        if options.decode == "nvjpeg" and processes:
            raise UsageError("--decode nvjpeg decodes in the towers' own process; leave out --decode-processes")
        if processes is None:
            processes = default_decode_processes(self.device, options.decode, self.threads)
        return ComputeOptions(
            self.device,
            self.precision,
            options.batch_images,
            options.part_images,
            decode_threads=self.threads,
            decode_processes=processes,
            part_bytes=options.part_bytes,
            decode=options.decode,
            compiled=options.compiled,
        )


@contextmanager
def find_workers(options: EmbedOptions, precision_on: Callable[[tuple[str, ...]], str]) -> Iterator[Workers]:
    """Workers of this machine (`local`), or of a Ray cluster (`ray`), which stays connected for the block.

    precision_on: devices -> their number format; it pickles, and is asked where such devices are.
    Raises: UsageError for an engine, a device or a number format that is not there; ModelError.
    """
    if options.engine not in ("local", "ray"):
        raise UsageError(f"--engine {options.engine}: choose local or ray")
    if options.engine == "local" and options.address is not None:
        raise UsageError("--address is for --engine ray")
    if options.engine == "local":
        devices = choose_devices(options.device, options.workers)
        chosen = precision_on(tuple(dict.fromkeys(devices)))
        many = f"{len(devices)} workers: " if len(devices) > 1 else ""
        words = many + describe_device(devices[0], chosen)
        yield Workers(local_engine(devices), devices[0], chosen, max(1, CORES // len(devices)), words)
        return
    with connected(options.address, options.workers, options.device) as cluster:
        chosen = cluster.ask(precision_on, (cluster.device,))
        words = f"a Ray cluster: {cluster.workers} × {cluster.ask(describe_device, cluster.device, chosen)}"
        yield Workers(cluster, cluster.device, chosen, max(1, cluster.cpus // cluster.workers), words)
