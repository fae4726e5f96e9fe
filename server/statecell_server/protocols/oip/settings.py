"""What Triton's clients may ask of tracing and logging: as the server was started, for here nothing of it can be changed."""

from collections.abc import Iterable

from statecell.oip import inference_pb2 as pb

from statecell_server.config import Config
from statecell_server.errors import InvalidRequest

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def write_trace(traced: bool) -> pb.TraceSettingResponse:
    """`traced`: whether calls are."""
    answer = pb.TraceSettingResponse()
    answer.settings["trace_level"].value.append("TIMESTAMPS" if traced else "OFF")
    answer.settings["trace_mode"].value.append("opentelemetry")
    return answer


def write_log(config: Config) -> pb.LogSettingsResponse:
    """By Triton's names."""
    answer = pb.LogSettingsResponse()
    least = LEVELS.index(config.log_level)
    for name, level in (("log_info", "INFO"), ("log_warning", "WARNING"), ("log_error", "ERROR")):
        answer.settings[name].bool_param = LEVELS.index(level) >= least
    answer.settings["log_verbose_level"].uint32_param = int(least == 0)
    answer.settings["log_format"].string_param = config.log_format
    answer.settings["log_file"].string_param = ""  # standard error
    return answer


def refuse(settings: Iterable[str], how: str) -> None:
    """Raises InvalidRequest where a request would change some."""
    names = ", ".join(sorted(settings))
    if names:
        raise InvalidRequest(
            f"settings has {names[:100]}, expected none: they are read-only here; start the server with {how}", field="settings"
        )
