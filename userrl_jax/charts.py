"""Draws a report's charts as SVG, without a library and without a network.

In: numbers. Out: markup that is safe to put into a page; colours are CSS
variables of the page (`--stage-0`, `--ink`, `--muted`, `--line`).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import markupsafe

NUM_COLOURS = 7  # of stages, then they repeat

_WIDTH, _HEIGHT = 380, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 22, 34
_LETTER = 7  # about the width of one in a stage's name
_MAX_DOTS = 80  # of a series; with more, they would hide the line
_MAX_POINTS = 800  # of a series; more cannot be told apart

Point = tuple[float, float]  # step, value


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One row of `intervals`."""

  label: str
  value: float
  low: float
  high: float
  colour: int  # number of its stage


@dataclasses.dataclass(frozen=True)
class Spot:
  """One dot of `scatter`; each number is a value, its low and its high end."""

  label: str
  x: tuple[float, float, float]
  y: tuple[float, float, float]
  is_filled: bool


def curve(
  series: Mapping[str, Sequence[Point]], colours: Mapping[str, int], title: str
) -> markupsafe.Markup:
  """Draws one number over the steps of a run, its stages side by side.

  Args:
    series: stage -> (step, value) in order; steps start anew in each stage.
      Values that are not finite are left out, which leaves a gap.
    colours: stage -> number of its colour.
    title: what is drawn, for screen readers.

  Returns:
    An `svg` element.
  """
  finite = [
    value for s in series.values() for _, value in s if math.isfinite(value)
  ]
  if not finite:
    return markupsafe.Markup("<p class='absent'>no finite number</p>")
  low, high = _widen(min(finite), max(finite))
  ticks = _ticks(low, high)
  low, high = min(low, ticks[0]), max(high, ticks[-1])
  lengths = {stage: max(x for x, _ in s) + 1 for stage, s in series.items()}
  total = sum(lengths.values())

  def place_x(x: float) -> float:
    return _LEFT + (x + 0.5) / total * (_WIDTH - _LEFT - _RIGHT)

  def place_y(y: float) -> float:
    return _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

  parts = [_tick_line(place_y(tick), _number(tick)) for tick in ticks]
  offset = 0.0
  for stage, points in series.items():
    colour = colours[stage] % NUM_COLOURS
    if offset:
      x = place_x(offset - 0.5)
      parts.append(
        f"<line class='border' x1='{x:.1f}' x2='{x:.1f}' y1='{_TOP}' "
        f"y2='{_HEIGHT - _BOTTOM}'/>"
      )
    # A short stage at the end has its name flush with the edge.
    x, anchor = place_x(offset - 0.5) + 3, "start"
    if x + _LETTER * len(stage) > _WIDTH:
      x, anchor = _WIDTH - 2, "end"
    parts.append(
      f"<text class='stage' style='fill:var(--stage-{colour})' "
      f"text-anchor='{anchor}' x='{x:.1f}' y='{_TOP - 8}'>"
      f"{markupsafe.escape(stage)}</text>"
    )
    parts += _step_labels(place_x, offset, lengths[stage], total)
    parts += _line(
      [(place_x(offset + x), y, x) for x, y in points],
      place_y,
      colour,
      stage,
    )
    offset += lengths[stage]
  middle = (_LEFT + _WIDTH - _RIGHT) / 2
  parts.append(
    f"<text class='axis' text-anchor='middle' x='{middle}' "
    f"y='{_HEIGHT - 4}'>step of the stage</text>"
  )
  return _svg(parts, _HEIGHT, title)


def lines(
  series: Mapping[str, Sequence[Point]], title: str
) -> markupsafe.Markup:
  """Draws several curves over each other, with a legend below.

  Args:
    series: name -> (step, value) in order, all finite; at least one point.
    title: what is drawn, for screen readers.

  Returns:
    An `svg` element.
  """
  values = [y for points in series.values() for _, y in points]
  low, high = _widen(min(values), max(values))
  ticks = _ticks(low, high)
  low, high = min(low, ticks[0]), max(high, ticks[-1])
  last = max(x for points in series.values() for x, _ in points)

  def place_x(x: float) -> float:
    return _LEFT + (x + 0.5) / (last + 1) * (_WIDTH - _LEFT - _RIGHT)

  def place_y(y: float) -> float:
    return _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

  parts = [_tick_line(place_y(tick), _number(tick)) for tick in ticks]
  parts += _step_labels(place_x, 0.0, last + 1, last + 1)
  columns, row_height = 2, 18
  for number, (name, points) in enumerate(series.items()):
    stroke = f"stroke:var(--stage-{number % NUM_COLOURS})"
    # Colours repeat, so later ones are dashed.
    dashes = "" if number < NUM_COLOURS else ";stroke-dasharray:5 3"
    style = f"style='fill:none;stroke-width:1.8;{stroke}{dashes}'"
    path = " L".join(f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in points)
    label = markupsafe.escape(name)
    x = _LEFT + number % columns * (_WIDTH - _LEFT) / columns
    y = _HEIGHT + number // columns * row_height + 4
    parts.append(
      f"<g><title>{label}: {points[-1][1]:.3f} at the end</title>"
      f"<path {style} d='M{path}'/><path {style} d='M{x:.0f} {y} h22'/>"
      f"<text class='tick' x='{x + 28:.0f}' y='{y + 4}'>{label}</text></g>"
    )
  num_rows = math.ceil(len(series) / columns)
  return _svg(parts, _HEIGHT + num_rows * row_height, title)


def intervals(
  rows: Sequence[Estimate], title: str, zero: bool = False
) -> markupsafe.Markup:
  """Draws estimates with their intervals, one below the other.

  Args:
    rows: at least one, finite.
    title: what is drawn, for screen readers.
    zero: mark 0, for differences.

  Returns:
    An `svg` element.
  """
  left, step, top = 150, 26, 8
  height = top + step * len(rows) + 30
  ends = [end for row in rows for end in (row.low, row.high, row.value)]
  low, high = _widen(min([*ends, 0.0]), max(ends))
  ticks = _ticks(low, high)
  low, high = min(low, ticks[0]), max(high, ticks[-1])

  def place(value: float) -> float:
    return left + (value - low) / (high - low) * (_WIDTH - left - 20)

  parts = []
  for tick in ticks:
    kind = "zero" if zero and tick == 0 else "grid"
    x, bottom = place(tick), top + step * len(rows)
    parts.append(
      f"<line class='{kind}' x1='{x:.1f}' x2='{x:.1f}' y1='{top}' "
      f"y2='{bottom}'/><text class='tick' text-anchor='middle' x='{x:.1f}' "
      f"y='{bottom + 15}'>{_number(tick)}</text>"
    )
  for number, row in enumerate(rows):
    y = top + step * (number + 0.5)
    colour = f"var(--stage-{row.colour % NUM_COLOURS})"
    tip = f"{row.label}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
    parts.append(
      f"<g><title>{markupsafe.escape(tip)}</title>"
      f"<text class='label' text-anchor='end' x='{left - 10}' "
      f"y='{y + 4:.1f}'>{markupsafe.escape(row.label)}</text>"
      f"<line class='interval' style='stroke:{colour}' "
      f"x1='{place(row.low):.1f}' x2='{place(row.high):.1f}' y1='{y:.1f}' "
      f"y2='{y:.1f}'/><circle style='fill:{colour}' r='5' "
      f"cx='{place(row.value):.1f}' cy='{y:.1f}'/></g>"
    )
  return _svg(parts, height, title)


def scatter(
  spots: Sequence[Spot], x_name: str, y_name: str, title: str
) -> markupsafe.Markup:
  """Draws dots with intervals both ways; a line joins those that are filled.

  Args:
    spots: at least one, finite.
    x_name: what goes to the right.
    y_name: what goes up.
    title: what is drawn, for screen readers.

  Returns:
    An `svg` element.
  """
  left, bottom = _LEFT + 10, _BOTTOM + 10
  height = _HEIGHT + 60

  def axis(numbers: Sequence[float]) -> tuple[list[float], float, float]:
    low, high = _widen(min(numbers), max(numbers))
    ticks = _ticks(low, high)
    return ticks, min(low, ticks[0]), max(high, ticks[-1])

  x_ticks, x_low, x_high = axis([end for spot in spots for end in spot.x])
  y_ticks, y_low, y_high = axis([end for spot in spots for end in spot.y])

  def place_x(x: float) -> float:
    return left + (x - x_low) / (x_high - x_low) * (_WIDTH - left - 20)

  def place_y(y: float) -> float:
    return _TOP + (y_high - y) / (y_high - y_low) * (height - _TOP - bottom)

  floor = height - bottom
  parts = [
    f"<line class='grid' x1='{left}' x2='{_WIDTH - 20}' "
    f"y1='{place_y(tick):.1f}' y2='{place_y(tick):.1f}'/>"
    f"<text class='tick' text-anchor='end' x='{left - 6}' "
    f"y='{place_y(tick) + 4:.1f}'>{_number(tick)}</text>"
    for tick in y_ticks
  ]
  parts += [
    f"<text class='tick' text-anchor='middle' x='{place_x(tick):.1f}' "
    f"y='{floor + 15}'>{_number(tick)}</text>"
    for tick in x_ticks
  ]
  parts.append(
    f"<text class='axis' text-anchor='middle' x='{(left + _WIDTH) / 2}' "
    f"y='{height - 4}'>{markupsafe.escape(x_name)}</text>"
    f"<text class='axis' x='4' y='12'>{markupsafe.escape(y_name)}</text>"
  )
  front = sorted(spot.x[0:1] + spot.y[0:1] for spot in spots if spot.is_filled)
  path = " L".join(f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in front)
  style = "style='fill:none;stroke:var(--stage-2);stroke-width:1.5'"
  parts.append(f"<path {style} d='M{path}'/>" if len(front) > 1 else "")
  for spot in spots:
    (x, x_from, x_to), (y, y_from, y_to) = spot.x, spot.y
    at_x, at_y = place_x(x), place_y(y)
    label = markupsafe.escape(spot.label)
    is_right = at_x > _WIDTH - 20 - _LETTER * len(spot.label)
    anchor, shift = ("end", -7) if is_right else ("start", 7)
    fill = "var(--stage-2)" if spot.is_filled else "var(--page)"
    parts.append(
      f"<g style='stroke:var(--stage-2)'><title>{label}: {x:.3f}, {y:.3f}"
      f"</title><line x1='{place_x(x_from):.1f}' x2='{place_x(x_to):.1f}' "
      f"y1='{at_y:.1f}' y2='{at_y:.1f}'/><line x1='{at_x:.1f}' "
      f"x2='{at_x:.1f}' y1='{place_y(y_from):.1f}' y2='{place_y(y_to):.1f}'/>"
      f"<circle style='fill:{fill}' r='5' cx='{at_x:.1f}' cy='{at_y:.1f}'/>"
      f"</g><text class='label' text-anchor='{anchor}' "
      f"x='{at_x + shift:.1f}' y='{at_y - 7:.1f}'>{label}</text>"
    )
  return _svg(parts, height, title)


def _svg(parts: Sequence[str], height: float, title: str) -> markupsafe.Markup:
  name = markupsafe.escape(title)
  return markupsafe.Markup(
    f"<svg viewBox='0 0 {_WIDTH} {height}' role='img' aria-label='{name}'>"
    f"{''.join(parts)}</svg>"
  )


def _tick_line(y: float, label: str) -> str:
  return (
    f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' "
    f"y2='{y:.1f}'/><text class='tick' text-anchor='end' x='{_LEFT - 6}' "
    f"y='{y + 4:.1f}'>{label}</text>"
  )


def _step_labels(place_x, offset: float, length: float, total: float):
  """Yields the last step of a stage, and the first where nothing is near."""
  last = int(length - 1)
  labels = [(last, "end" if length / total > 0.05 else "middle")]
  if last and not offset:
    labels.append((0, "start"))
  for step, anchor in labels:
    yield (
      f"<text class='tick' text-anchor='{anchor}' "
      f"x='{place_x(offset + step):.1f}' y='{_HEIGHT - _BOTTOM + 14}'>"
      f"{step}</text>"
    )


def _line(points, place_y, colour: int, stage: str) -> list[str]:
  """Draws (x, value, step) as a line with dots that say what they are."""
  stride = math.ceil(len(points) / _MAX_POINTS)
  points = [*points[:-1:stride], points[-1]]
  path, pen_is_up = [], True
  for x, value, _ in points:
    if not math.isfinite(value):
      pen_is_up = True
      continue
    path.append(f"{'M' if pen_is_up else 'L'}{x:.1f} {place_y(value):.1f}")
    pen_is_up = False
  style = f"style='stroke:var(--stage-{colour})'"
  parts = [f"<path class='curve' {style} d='{' '.join(path)}'/>"]
  radius = 2 if len(points) <= _MAX_DOTS else 0
  # Invisible wider dots are what a mouse can meet.
  for x, value, step in points:
    if math.isfinite(value):
      tip = markupsafe.escape(f"{stage} {step:g}: {value:.5g}")
      y = place_y(value)
      parts.append(
        f"<g class='dot' style='fill:var(--stage-{colour})'><title>{tip}"
        f"</title><circle cx='{x:.1f}' cy='{y:.1f}' r='{radius}'/>"
        f"<circle class='hit' cx='{x:.1f}' cy='{y:.1f}' r='5'/></g>"
      )
  return parts


def _widen(low: float, high: float) -> tuple[float, float]:
  """Makes room around a flat line."""
  if high > low:
    return low, high
  margin = abs(low) * 0.1 or 0.5
  return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
  """Returns 3 to 6 round numbers that reach to both ends or beyond."""
  raw = (high - low) / 4
  size = 10.0 ** math.floor(math.log10(raw))
  step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= raw)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [number * step for number in range(first, last + 1)]


def _number(value: float) -> str:
  if value and not 1e-3 <= abs(value) < 1e5:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
  return f"{value:.4g}"
