"""Checks a file of weights against the package, makes it whole if it is not, and stores it as a version."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import BaseHasNoFile, BaseVersionMismatch, DeltaBaseMismatch, PackageError, PickledWeights
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.contents import ContentsCheck
from aoti_serve.signature.finite import FiniteCheck
from aoti_serve.signature.name_rules import AS_IT_IS, NameRules, ReadingRules
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.adapter_config import AdapterConfig, config_beside
from aoti_serve.weights.assets import MAX_ASSETS_BYTES, OfferedAssets, VersionAssets, described_assets, read_asset
from aoti_serve.weights.files.adapter import adapted_parts
from aoti_serve.weights.files.cast import cast_parts, rounding_of
from aoti_serve.weights.files.checkpoint import SingleFile, open_checkpoint, write_joined
from aoti_serve.weights.files.delta import base_digest_in, check_no_delta, delta_parts
from aoti_serve.weights.files.index import file_chunks, file_digest, read_index
from aoti_serve.weights.files.merge import FilePart, Part, merge_weights, parts_in
from aoti_serve.weights.files.naming import check_rules, renamed
from aoti_serve.weights.files.pickles import pickled
from aoti_serve.weights.golden import OfferedGolden
from aoti_serve.weights.sources.beside import files_beside
from aoti_serve.weights.sources.shards import fetch_checkpoint
from aoti_serve.weights.sources.source import fetch_to
from aoti_serve.weights.sources.uri import shown_uri
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, MergedAdapter, Rounding, Version, VersionFacts

WriteBuiltIn = Callable[[Path], None]


@dataclass(frozen=True)
class Intake:
    """Makes versions of files, read by `rules` unless a swap brings its own. Runs in the coordinator, in threads.

    `write_built_in` writes version 0 to a file, for partial swaps on it, and raises a PackageError if it cannot.
    `assets` are the files that the processor reads with the first version; later ones bring files of the same names.
    The bytes that answer already make no new version: all methods then return the version that answers. They raise an
    InvalidWeights, SourceRefused, BaseVersionMismatch, BaseHasNoFile, UnknownWeightsVersion, StoreFailed, or TryAgain
    if golden requests must be sent again; nothing has changed then, and nothing is left behind.
    """

    store: Store
    model: str
    constants: Constants
    limits: WeightsLimits
    roots: Collection[str]
    rules: ReadingRules = AS_IT_IS
    write_built_in: WriteBuiltIn | None = None
    assets: Collection[Path] = ()

    def base(self, options: SwapOptions, current: Version) -> Version:
        """The version that a partial file or a delta changes, or that an adapter is merged into."""
        number = current.adapter_base if options.adapter else current.number
        if options.base_version is not None:
            number = options.base_version
        if number != current.number and not options.adapter:
            raise BaseVersionMismatch(model=self.model, base=number, current=current.number)
        partly = options.partial and self.write_built_in is not None
        if number == BUILT_IN.number and options.on_base and not partly:
            raise BaseHasNoFile(model=self.model)
        return current if number == current.number else self.store.version(number)

    def of_uri(self, uri: str, options: SwapOptions, current: Version) -> Version:
        """The version that a file elsewhere becomes. The settings of an adapter are looked for beside it."""
        self.base(options, current)
        check_rules(options.reading(self.rules))
        if options.adapter and options.adapter_config is None:
            options = options.model_copy(update={"adapter_config": self._config_beside(uri)})
        return self._of_copy(uri, self.roots, self._with_assets_beside(uri, options), current)

    def of_local(self, source: Path, options: SwapOptions) -> Version:
        """The version that a file of the configuration's becomes, or the shards in a folder."""
        found = open_checkpoint(source)
        options = self._with_assets(options, {path.name: read_asset(path) for path in self.assets})
        if isinstance(found, SingleFile):
            real = found.path.resolve()  # the author of the configuration may have meant a link
            return self._of_copy(str(real), [str(real.parent)], options, BUILT_IN)
        with self._scratch() as path:
            write_joined(found, path, self.limits.max_weights_bytes)
            return self.of_file(path, options, BUILT_IN)

    def of_file(self, path: Path, options: SwapOptions, current: Version) -> Version:
        """The version that an upload becomes; it is moved or copied."""
        base, rules = self.base(options, current), options.reading(self.rules)
        with path.open("rb") as file:
            parts = parts_in(file, self.index(path))
            if not options.delta:
                check_no_delta(parts)
            given = renamed(parts, rules)
            ready = given == parts and not options.on_base
            if ready and not (rules.cast and cast_parts(given, self.constants)):
                return self._stored(path, options.sha256, options, current)
            digest = file_digest(path, options.sha256)
            if options.delta:
                self._check_delta(path, base, current)
            adapter = MergedAdapter(base=base.number, digest=digest) if options.adapter else None
            with self._scratch() as whole:
                rounding = self._complete(given, base, options, rules, whole)
                names = NameRules(rename=rules.rename, drop=rules.drop) if rules.change_names else None
                facts = VersionFacts(adapter=adapter, names=names, rounding=rounding)
                return self._stored(whole, None, options, current, facts)

    def _of_copy(self, uri: str, roots: Collection[str], options: SwapOptions, current: Version) -> Version:
        """Copy the file before it is checked."""
        with self._scratch() as path:
            fetch_checkpoint(uri, roots, path, self.limits, self._scratch)
            try:
                return self.of_file(path, options, current)
            except PickledWeights as error:
                raise pickled(shown_uri(uri)) from error

    def _with_assets_beside(self, uri: str, options: SwapOptions) -> SwapOptions:
        """With the assets that lie beside the weights, but for those that were sent."""
        wanted = {path.name for path in self.assets} - (options.assets or {}).keys()
        return self._with_assets(options, files_beside(uri, wanted, self.roots, MAX_ASSETS_BYTES, self._scratch))

    def _with_assets(self, options: SwapOptions, files: Mapping[str, bytes]) -> SwapOptions:
        offered = OfferedAssets(self.store)
        given = {name: offered.offer(file) for name, file in files.items()} | (options.assets or {})
        return options.model_copy(update={"assets": given}) if given else options

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A file for the time being; it may be moved away meanwhile."""
        path = self.store.incoming()
        try:
            yield path
        finally:
            self.store.discard(path)

    def index(self, path: Path) -> dict[str, Span]:
        try:
            return read_index(path, self.limits.max_weights_tensors, self.limits.max_weights_header_bytes)
        except PickledWeights as error:
            raise pickled("FILE", "the upload") from error  # not the name that it has here

    def _check_delta(self, path: Path, base: Version, current: Version) -> None:
        if (made_from := base_digest_in(path)) != base.digest:
            numbers = {"base": base.number, "current": current.number}
            raise DeltaBaseMismatch(model=self.model, made_from=made_from, digest=base.digest, **numbers)

    def _complete(
        self, given: Mapping[str, FilePart], base: Version, options: SwapOptions, rules: ReadingRules, whole: Path
    ) -> Rounding | None:
        """Write the whole file: of what is `given` alone, or with the rest of the base."""
        with ExitStack() as stack:
            stored: Mapping[str, FilePart] = {}
            if options.on_base:
                stored = stack.enter_context(self._opened(base))
            changes = dict(self._changes(given, stored, options))
            casts = cast_parts(changes, self.constants) if rules.cast else {}
            changes.update(casts)
            spans = {name: part.span for name, part in changes.items()}
            self.constants.check_weights(spans, partial=options.on_base)
            merge_weights(stored, changes, whole, self.constants.tied)
        return rounding_of(casts.values())

    @contextmanager
    def _opened(self, base: Version) -> Iterator[Mapping[str, FilePart]]:
        """The tensors of a version, of the built-in one from a file that is written for it."""
        if base.number != BUILT_IN.number or self.write_built_in is None:
            with self.store.open(base) as file:
                yield parts_in(file, self.store.index(base))
            return
        with self._scratch() as path:
            try:
                self.write_built_in(path)
            except PackageError as error:
                raise BaseHasNoFile(model=self.model, reason=f", which failed to be written: {error}") from error
            with path.open("rb") as file:
                yield parts_in(file, read_index(path))

    def _changes(
        self, given: Mapping[str, FilePart], base: Mapping[str, FilePart], options: SwapOptions
    ) -> Mapping[str, Part]:
        if options.delta:
            return delta_parts(given, base, self.constants.tied)
        if not options.adapter:
            return given
        assert options.adapter_config is not None, "it was sent, or found beside the file"
        return adapted_parts(given, base, options.adapter_config, self.constants.tied)

    def _config_beside(self, uri: str) -> AdapterConfig:
        place, limit = config_beside(uri), self.limits.max_weights_header_bytes
        with self._scratch() as path:
            fetch_to(place, self.roots, path, limit, "gateway.max_weights_header_bytes")
            return AdapterConfig.parse(path.read_bytes(), shown_uri(place))

    def _stored(
        self,
        path: Path,
        digest: str | None,
        options: SwapOptions,
        current: Version,
        made: VersionFacts | None = None,
    ) -> Version:
        index = self.index(path)
        self.constants.check_weights(index)
        check_values(path, index, self.constants, strict=options.strict, accepts_any=options.skip_acceptance)
        assets = VersionAssets(self.store, self.model, {path.name for path in self.assets})
        bundle = assets.bundle_of(options.assets, current)
        source, golden = OfferedGolden(self.store).copied(options.golden) if options.golden else (None, None)
        facts = VersionFacts(
            parent=current.number,
            strict=options.strict,
            golden=golden,
            skips_acceptance=options.skip_acceptance,
            assets=described_assets(bundle) if bundle else None,
            **(made or {}),
        )
        with self._scratch() as files:
            files.write_bytes(bundle or b"")
            try:
                return self.store.add(
                    *(path, options.label, digest),
                    golden_source=source,
                    assets_source=files if bundle else None,
                    answers=current,
                    **facts,
                )
            finally:
                if source is not None:
                    self.store.discard(source)


def check_values(
    path: Path, index: Mapping[str, Span], constants: Constants, *, strict: bool, accepts_any: bool = False
) -> list[str]:
    """Check the values of a file that fits; see `ContentsCheck.finish`. Raises NotFinite unless it `accepts_any`."""
    contents, finite = ContentsCheck(index, constants), FiniteCheck([] if accepts_any else index, constants)
    with path.open("rb") as file:
        for name, span in index.items():
            checks = [check for check in (contents, finite) if check.reads(name)]
            for chunk in file_chunks(file, span) if checks else ():
                for check in checks:
                    check.take(name, np.frombuffer(chunk, np.uint8))
    finite.finish()
    return contents.finish(strict=strict)
