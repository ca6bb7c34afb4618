"""The sound of a source video, carried over into its annotated copy."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from detkit.infer.frames import Item
from detkit.infer.video_source import open_source

if TYPE_CHECKING:
    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet

_KEPT_CODECS = frozenset({"aac", "mp3", "mp3float", "opus", "flac", "ac3", "eac3", "alac"})  # .mp4 holds, players play
_AAC_RATES = frozenset({96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000})
_AAC_BITS_PER_CHANNEL = 96_000


class AudioTracks:
    """Every audio track of a video, in step with the pictures of its copy.

    Coded sound goes over packet by packet, as it is, where the .mp4 can hold it; other kinds (PCM, Vorbis ...) are
    encoded to AAC, in stereo at most. A track that cannot be decoded is left out.
    """

    def __init__(self, source: Item, target: OutputContainer) -> None:
        """Open the source once more and add its tracks to `target`, whose header must not be written yet.

        Raises:
            DataError: the source cannot be opened.
        """
        self._source = open_source(source)
        self._target = target
        self._tracks: dict[int, _Copied | _Encoded] = {}
        for stream in self._source.streams.audio:
            if not stream.codec_context:
                continue
            kept = stream.codec_context.name in _KEPT_CODECS
            self._tracks[stream.index] = _Copied(stream, target) if kept else _Encoded(stream, target)
        self._packets = self._read()
        self._next: Packet[AudioStream] | None = None
        self._origin_s, self._cut = Fraction(0), False

    def start_s(self) -> Fraction | None:
        """When the earliest track starts by the source's clock; None without tracks."""
        starts = [
            Fraction(stream.start_time) * stream.time_base
            for stream in self._source.streams.audio
            if stream.index in self._tracks and stream.start_time is not None and stream.time_base is not None
        ]
        return min(starts, default=None)

    def begin(self, origin_s: Fraction, *, cut: bool) -> None:
        """Make this time of the source's clock 0 of the copy's; what lies before it is cut off, or is the run-up."""
        self._origin_s, self._cut = origin_s, cut
        if self._tracks:
            self._next = next(self._packets, None)

    def up_to(self, time_s: Fraction | None) -> None:
        """Write all sound before a time of the source's clock; None: all there is."""
        while (packet := self._next) is not None:
            at_s = packet.pts * packet.time_base if packet.pts is not None else None
            if time_s is not None and at_s is not None and at_s >= time_s:
                return
            if at_s is not None and (at_s >= self._origin_s or not self._cut):
                self._target.mux(self._tracks[packet.stream_index].take(packet, self._origin_s))
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Write what the encoders still hold."""
        for track in self._tracks.values():
            self._target.mux(track.rest())

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def _read(self) -> Iterator[Packet[AudioStream]]:
        """Packets of the tracks, up to where the source ends or is damaged."""
        import av

        streams = [stream for stream in self._source.streams.audio if stream.index in self._tracks]
        try:
            for packet in self._source.demux(*streams):
                if packet.size:
                    yield cast("Packet[AudioStream]", packet)
        except (av.FFmpegError, OSError, EOFError):
            return


class _Copied:
    """A track that goes over as it is."""

    def __init__(self, stream: AudioStream, target: OutputContainer) -> None:
        self._stream = target.add_stream_from_template(stream)
        _name(self._stream, stream)

    def take(self, packet: Packet[AudioStream], origin_s: Fraction) -> list[Packet[AudioStream]]:
        shift = round(origin_s / packet.time_base)
        if packet.pts is not None:
            packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        packet.stream = self._stream
        return [packet]

    def rest(self) -> list[Packet[AudioStream]]:
        return []


class _Encoded:
    """A track that is encoded anew, to AAC."""

    def __init__(self, stream: AudioStream, target: OutputContainer) -> None:
        from av.audio.resampler import AudioResampler

        context = stream.codec_context
        rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48000
        layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        bits = _AAC_BITS_PER_CHANNEL * (1 if layout == "mono" else 2)
        self._decoder = stream
        self._stream: AudioStream = target.add_stream("aac", rate=rate, bit_rate=bits, layout=layout)
        self._resampler: AudioResampler = AudioResampler("fltp", layout, rate)
        _name(self._stream, stream)

    def take(self, packet: Packet[AudioStream], origin_s: Fraction) -> list[Packet[AudioStream]]:
        import av

        packets: list[Packet[AudioStream]] = []
        try:
            decoded = packet.decode()
        except (av.FFmpegError, EOFError):  # a torn packet is a short silence
            return packets
        for frame in decoded:
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(origin_s / frame.time_base)
            for piece in self._resampler.resample(frame):
                packets += self._stream.encode(piece)
        return packets

    def rest(self) -> list[Packet[AudioStream]]:
        pieces = [piece for piece in self._resampler.resample(None) if piece is not None]
        return [packet for piece in [*pieces, None] for packet in self._stream.encode(piece)]


def _name(copy: AudioStream, original: AudioStream) -> None:
    for key in ("language", "title"):
        if key in original.metadata:
            copy.metadata[key] = original.metadata[key]
