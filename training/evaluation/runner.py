"""Runs every candidate over every picture, keeps what is found at once, and goes on where it was stopped.

For each picture the bundles come first and the peers after them, because a peer is searched to the bytes of the first
bundle's file of the same picture and operating point.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError, UsageError
from shared.picture import save_picture
from training.evaluation.candidates import Candidate, Decoded, Encoded
from training.evaluation.datasets import Dataset, Source
from training.evaluation.gallery import Gallery
from training.evaluation.measuring import Kept, Outcome, Work, reason
from training.evaluation.results import RateResult, Result
from training.evaluation.set_measures import measure_set
from training.evaluation.store import ResultStore, Stored, fingerprint

if TYPE_CHECKING:
    # Its import loads torch, which nothing here needs.
    from training.evaluation.metrics import LoadedMetrics
    from training.evaluation.metrics.interfaces import PictureMetric

RESULTS, PICTURES, ERRORS = "results.jsonl", "pictures", "errors.log"
"""Names in the output folder."""


class Evaluation:
    """One evaluation of some candidates on a dataset.

    Args:
        dataset: the pictures.
        candidates: bundles and peers, at least one that is told a quality.
        metrics: what is measured.
        folder: where results and pictures are kept; made if missing.
        show: how many pictures are kept for the page, spread evenly over the dataset.
        show_target: at which operating point; None for each candidate's middle one.
        tell: takes a line for each failure.
        advance: called with a description of what is done next and the number of decodes done since the last call.

    Raises:
        UsageError: if two candidates share a name, or there are only such as need bytes to match.
        PinholeError: if the folder or the results in it cannot be used.
    """

    def __init__(
        self,
        dataset: Dataset,
        candidates: Sequence[Candidate],
        metrics: "LoadedMetrics",
        folder: Path,
        *,
        show: int = 0,
        show_target: str | None = None,
        tell: Callable[[str], None] = lambda line: None,
        advance: Callable[[str, int], None] = lambda text, count: None,
    ) -> None:
        names = [candidate.name for candidate in candidates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"two candidates are called {twice[0]}; give one another name, as in --bundle new=FOLDER")
        if all(candidate.matches for candidate in candidates):
            raise UsageError("peers are searched to the bytes of a bundle; give at least one bundle")
        # Sorting keeps the order otherwise: what peers are matched to is the first bundle.
        self._candidates = sorted(candidates, key=lambda candidate: candidate.matches)
        self._dataset, self._metrics, self._tell, self._advance = dataset, metrics, tell, advance
        self._names = frozenset(metric.name for metric in metrics.pictures)
        # With its note, which tells how it was computed: a figure of another precision is not the same figure.
        self._wanted = frozenset(_identity(metric) for metric in metrics.pictures)
        self._figures: dict[str, dict[str, float | None]] = {}
        self._gallery = Gallery(folder / PICTURES, [p.name for p in dataset.pictures], show, show_target)
        self._errors = folder / ERRORS
        self._store = ResultStore(folder / RESULTS)
        self._outcome = Outcome()

    @property
    def decodes(self) -> int:
        """How many decodes the whole evaluation has, those that are done already included."""
        return len(self._dataset.pictures) * self._per_picture

    @property
    def _per_picture(self) -> int:
        return sum(len(target.variants) for candidate in self._candidates for target in candidate.targets)

    def run(self) -> Outcome:
        """Measure what is missing and return everything."""
        self._outcome = Outcome()
        done: list[Work] = []
        for source in self._dataset.pictures:
            try:
                pixels = source.load()
                original = self._gallery.keep_original(source.name, pixels)
            except Exception as error:
                self._fail(source.name, error)
                self._advance(source.name, self._per_picture)
                continue
            if original is not None:
                self._outcome.originals[source.name] = original
            done += self._measure_picture(source, pixels)
        self._measure_sets(done)
        return self._outcome

    def _measure_picture(self, source: Source, pixels: Pixels) -> list[Work]:
        """Measure all candidates on one picture."""
        marks = fingerprint(pixels)
        self._figures = {}
        sizes: dict[str, int] = {}
        done: list[Work] = []
        for candidate in self._candidates:
            for target in candidate.targets:
                work = Work(source, marks, candidate, target, sizes.get(target.name) if candidate.matches else None)
                if candidate.matches and work.matched is None:
                    self._fail(work.place(), PinholeError("the bundle's file that it is matched to could not be made"))
                    self._advance(work.place(), len(target.variants))
                    continue
                size = self._measure_target(work, pixels)
                if candidate is self._candidates[0] and size is not None:
                    sizes[target.name] = size
                done.append(work)
        return done

    def _measure_target(self, work: Work, pixels: Pixels) -> int | None:
        """Measure one file in all variants; return its bytes, None if it could not be made."""
        variants = work.target.variants
        missing = [variant for variant in variants if not self._is_done(work, variant)]
        first = self._store.result(work.key(variants[0]))
        size = first.result.size if first else None
        self._advance(work.place(), len(variants) - len(missing))
        if missing or self._lacks_rate(work):
            try:
                encoded = work.candidate.encode(pixels, work.target.name, work.matched)
            except Exception as error:
                self._fail(work.place(), error)
                self._advance(work.place(), len(missing))
            else:
                size = encoded.size
                self._add_rate(work, encoded)
                self._decode(work, pixels, encoded, missing)
        for variant in variants:
            self._collect(work, variant)
        rate = self._store.rate(work.key(""))
        if rate is not None:
            self._outcome.rates.append(replace(rate, dataset=self._dataset.name, picture=work.source.name))
        return size

    def _decode(self, work: Work, pixels: Pixels, encoded: Encoded, missing: Sequence[str]) -> None:
        for variant in missing:
            self._advance(work.place(variant), 0)
            try:
                decoded = encoded.decode(variant)
                # Variants may come to the same, and a peer's smallest file serves several targets: measured once.
                figures = self._figures.setdefault(fingerprint(decoded.pixels), {})
                self._add_result(work, pixels, encoded, variant, decoded, figures)
                path = self._gallery.path(work, variant)
                if path is not None:
                    save_picture(decoded.pixels, path)
            except Exception as error:
                self._fail(work.place(variant), error)
            self._advance(work.place(variant), 1)

    def _add_result(
        self,
        work: Work,
        pixels: Pixels,
        encoded: Encoded,
        variant: str,
        decoded: Decoded,
        figures: dict[str, float | None],
    ) -> None:
        """Measure what is not known yet of a decode into ``figures``, and keep it."""
        if decoded.pixels.shape != pixels.shape:
            raise PinholeError(f"decoded to shape {decoded.pixels.shape}, the original has {pixels.shape}")
        key = work.key(variant)
        before = self._store.result(key)
        known = before.attempted if before else frozenset()
        if before is not None and self._wanted <= known:
            return
        for metric in self._metrics.pictures:
            if _identity(metric) not in known and metric.name not in figures:
                figures[metric.name] = metric.measure(pixels, decoded.pixels)
        values = {name: value for name, value in figures.items() if value is not None}
        if before is None:
            result = Result(
                dataset=self._dataset.name,
                picture=work.source.name,
                method=work.candidate.name,
                variant=variant,
                target=work.target.name,
                setting=encoded.setting,
                width=pixels.shape[1],
                height=pixels.shape[0],
                size=decoded.size,
                encode_seconds=encoded.seconds,
                decode_seconds=decoded.seconds,
                metrics=values,
                note=encoded.note,
            )
        else:
            result = replace(before.result, metrics={**before.result.metrics, **values})
        self._store.add_result(key, Stored(result, known | self._wanted))

    def _add_rate(self, work: Work, encoded: Encoded) -> None:
        if not self._lacks_rate(work):
            return
        try:
            spent = encoded.coded_bytes()
        except Exception as error:
            self._fail(f"{work.place()}, estimate of its bytes", error)
            return
        if spent is not None:
            where = (self._dataset.name, work.source.name, work.candidate.name, work.target.name)
            self._store.add_rate(work.key(""), RateResult(*where, spent.estimate, spent.payload, spent.size))

    def _lacks_rate(self, work: Work) -> bool:
        return work.candidate.estimates and self._store.rate(work.key("")) is None

    def _is_done(self, work: Work, variant: str) -> bool:
        stored = self._store.result(work.key(variant))
        return stored is not None and self._wanted <= stored.attempted and self._gallery.is_kept(work, variant)

    def _collect(self, work: Work, variant: str) -> None:
        """Take a decode's figures into the outcome, those of metrics that were not asked for left out."""
        stored = self._store.result(work.key(variant))
        if stored is None:
            return
        metrics = {name: value for name, value in stored.result.metrics.items() if name in self._names}
        # The key is the pixels' own: picture and set may have had other names then.
        result = replace(stored.result, dataset=self._dataset.name, picture=work.source.name, metrics=metrics)
        self._outcome.results.append(result)
        path = self._gallery.path(work, variant)
        if path is not None and path.exists():
            self._outcome.kept.append(Kept(result, path))

    def _measure_sets(self, done: Sequence[Work]) -> None:
        for candidate in self._candidates if self._metrics.sets else ():
            for target in candidate.targets:
                works = [work for work in done if work.candidate is candidate and work.target is target]
                for variant in target.variants:
                    try:
                        result = measure_set(works, variant, self._metrics.sets, self._store, self._advance)
                    except Exception as error:
                        self._fail(f"all pictures, {candidate.name} {variant} at {target.name}", error)
                        continue
                    if result is not None:
                        self._outcome.set_results.append(replace(result, dataset=self._dataset.name))

    def _fail(self, what: str, error: Exception) -> None:
        """Note a failure; all but our own errors leave their traceback in the log."""
        line = f"{what}: {reason(error)}"
        self._outcome.failures.append(line)
        self._tell(line)
        if not isinstance(error, PinholeError):
            with self._errors.open("a", encoding="utf-8") as log:
                log.write(f"{line}\n{''.join(traceback.format_exception(error))}\n")


def _identity(metric: "PictureMetric") -> str:
    return f"{metric.name}: {metric.note}" if metric.note else metric.name
