#!/usr/bin/env python3
"""Shows a dashboard's panels as one HTML page, drawn from the same queries, without Grafana. Needs Python 3.8.

    python3 grafana/tools/preview.py PROMETHEUS DASHBOARD.json OUT.html [--minutes N] [--end UNIXTIME] [--set NAME=VALUE]

PROMETHEUS is an address such as http://localhost:9090. Variables are taken as `.*` unless set. To see the page as a
picture: chromium --headless --no-sandbox --window-size=1600,2400 --screenshot=OUT.png OUT.html
"""

import argparse
import html
import json
import math
import time
import urllib.parse
import urllib.request

COLORS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#37872d", "#e0b400",
          "#1f60c4", "#fa6400", "#c4162a", "#8f3bb8", "#56a64b", "#ffee52"]
NAMED = {"green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "blue": "#5794f2", "text": "#ccccdc"}
STYLE = """
body { background: #111217; color: #ccccdc; font: 12px/1.3 Inter, Helvetica, Arial, sans-serif; margin: 12px }
h1 { font-size: 18px; font-weight: 500; margin: 0 0 8px }
.grid { display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: 30px; gap: 8px }
.panel { background: #181b1f; border: 1px solid #25272c; border-radius: 2px; padding: 6px 8px; overflow: hidden;
         display: flex; flex-direction: column; min-width: 0 }
.panel > b { font-weight: 500; margin-bottom: 4px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.row { font-size: 14px; align-self: center; border: 0; background: none }
.big { flex: 1; display: flex; align-items: center; justify-content: center; font-size: 34px; font-weight: 500 }
.legend { max-height: 84px; overflow: hidden; font-size: 11px }
.legend div { display: flex; justify-content: space-between; white-space: nowrap }
.legend i { display: inline-block; width: 12px; height: 3px; margin: 0 6px 3px 0 }
.legend span { overflow: hidden; text-overflow: ellipsis }
.bar { display: grid; grid-template-columns: 38% 1fr 62px; gap: 6px; align-items: center; margin: 1px 0; min-height: 0 }
.bar u { text-decoration: none; background: #22252b; height: 14px; display: block }
.bar u s { display: block; height: 14px }
.bar em, td.n, th.n { font-style: normal; text-align: right }
.bar span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right }
table { border-collapse: collapse; width: 100%; font-size: 11px } th { text-align: left; color: #6e9fff }
td, th { padding: 3px 6px; border-bottom: 1px solid #25272c; white-space: nowrap }
svg { flex: 1; min-height: 0; width: 100% } text { fill: #9a9ba5; font-size: 10px }
.none { flex: 1; display: flex; align-items: center; justify-content: center; color: #f2495c }
"""


def ask(base, path, **arguments):
    url = f"{base.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["data"]["result"]


def shown(value, unit, decimals=None):
    """A number as Grafana would show it, roughly."""
    if value is None or math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f}%"
    if unit in ("s", "dtdurations"):
        size = abs(value)
        for limit, factor, name in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (60, 1, "s"), (3600, 1 / 60, "min"),
                                    (86400, 1 / 3600, "h")):
            if size < limit:
                return f"{value * factor:.3g} {name}"
        return f"{value / 86400:.3g} d"
    scale, end = 1000, {"cpm": " c/min", "cps": " c/s", "reqps": " req/s", "watt": " W", "celsius": " °C",
                        "joule": " J"}.get(unit, "")
    steps = ["", " K", " M", " G", " T"]
    if unit == "bytes":
        scale, steps = 1024, [" B", " KiB", " MiB", " GiB", " TiB"]
    if unit in ("none", "celsius"):
        return f"{value:.{decimals}f}{end}" if decimals is not None else f"{value:.4g}{end}"
    at = 0
    while abs(value) >= scale and at < len(steps) - 1:
        value, at = value / scale, at + 1
    digits = decimals if decimals is not None and at == 0 else (0 if value == int(value) else (2 if abs(value) < 10 else 1))
    return f"{value:.{digits}f}{steps[at]}{end}"


def mapped(value, defaults):
    """The word and colour of a value, if it has any."""
    for mapping in defaults.get("mappings", []):
        found = mapping["options"].get(f"{value:g}") if value is not None and not math.isnan(value) else None
        if found:
            return found["text"], NAMED.get(found["color"], found["color"])
    return None


def threshold(value, defaults):
    color = "#73bf69"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or (value is not None and value >= step["value"]):
            color = NAMED.get(step["color"], step["color"])
    return color


def legend(target, metric):
    text = target["legendFormat"]
    if text == "__auto":
        return ", ".join(f"{k}={v}" for k, v in metric.items() if k != "__name__") or "value"
    for label, value in metric.items():
        text = text.replace("{{" + label + "}}", value)
    return text


class Preview:
    def __init__(self, base, start, end, variables):
        self.base, self.start, self.end, self.variables = base, start, end, variables
        self.step = max(1, (end - start) // 240)
        self.missing = []

    def expression(self, text):
        for name, value in self.variables.items():
            text = text.replace("$" + name, value)
        window = max(15, 4 * self.step)
        return text.replace("$__rate_interval", f"{window}s").replace("$__range", f"{self.end - self.start}s")

    def instant(self, target):
        found = ask(self.base, "query", query=self.expression(target["expr"]), time=self.end)
        return [(legend(target, series["metric"]), series["metric"], float(series["value"][1])) for series in found]

    def range(self, target):
        found = ask(self.base, "query_range", query=self.expression(target["expr"]), start=self.start, end=self.end,
                    step=self.step)
        return [(legend(target, series["metric"]), [(t, float(v)) for t, v in series["values"]]) for series in found]

    def panel(self, panel):
        kind, spot = panel["type"], panel["gridPos"]
        place = f"grid-area: {spot['y'] + 1} / {spot['x'] + 1} / span {spot['h']} / span {spot['w']}"
        if kind == "row":
            return f'<div class="panel row" style="{place}">{html.escape(panel["title"])}</div>'
        draw = {"stat": self.stat, "bargauge": self.bars, "timeseries": self.lines, "table": self.table,
                "heatmap": self.heatmap, "state-timeline": self.timeline}[kind]
        inside = draw(panel, panel["fieldConfig"]["defaults"])
        if not inside:
            self.missing.append(panel["title"])
            inside = '<div class="none">No data</div>'
        return f'<div class="panel" style="{place}"><b>{html.escape(panel["title"])}</b>{inside}</div>'

    def stat(self, panel, defaults):
        found = self.instant(panel["targets"][0])
        if not found:
            return ""
        value = found[0][2]
        word, color = mapped(value, defaults) or (shown(value, defaults["unit"], defaults.get("decimals")),
                                                  threshold(value, defaults))
        return f'<div class="big" style="color:{color}">{html.escape(word)}</div>'

    def bars(self, panel, defaults):
        found = self.instant(panel["targets"][0])
        most = defaults.get("max") or max([value for _, _, value in found] or [1]) or 1
        return "".join(
            f'<div class="bar"><span>{html.escape(name)}</span><u><s style="width:{min(100, 100 * value / most):.1f}%;'
            f'background:{threshold(value, defaults)}"></s></u>'
            f'<em>{shown(value, defaults["unit"], defaults.get("decimals"))}</em></div>' for name, _, value in found)

    def table(self, panel, _):
        rows, columns, units = {}, [], {}
        renames = panel["transformations"][1]["options"]["renameByName"]
        for target in panel["targets"]:
            name = renames.get(f"Value #{target['refId']}")
            columns += [name] if name else []
            for _, metric, value in self.instant(target):
                key = tuple(metric.get(label, "") for label in ("run_id", "state", "shard"))
                row = rows.setdefault(key, {"labels": {}})
                row["labels"].update({k: v for k, v in metric.items() if k != "__name__"})
                if name:
                    row[name] = value
        for override in panel["fieldConfig"]["overrides"]:
            units[override["matcher"]["options"]] = {p["id"]: p["value"] for p in override["properties"]}
        if not rows:
            return ""
        labels = sorted({label for row in rows.values() for label in row["labels"]},
                        key=lambda label: (label not in ("run_id", "state", "shard"), label))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in labels)
        head += "".join(f'<th class="n">{html.escape(name)}</th>' for name in columns)
        lines = []
        for row in rows.values():
            cells = [f"<td>{html.escape(row['labels'].get(label, ''))}</td>" for label in labels]
            for name in columns:
                how = units.get(name, {})
                defaults = {"mappings": how.get("mappings", []), "thresholds": how.get("thresholds", {})}
                value = row.get(name)
                word, color = mapped(value, defaults) or (shown(value, how.get("unit", "none")), None)
                if how.get("thresholds"):
                    color = threshold(value, defaults)
                cells.append(f'<td class="n" style="color:{color or "inherit"}">{html.escape(word)}</td>')
            lines.append(f"<tr>{''.join(cells)}</tr>")
        return f"<table><tr>{head}</tr>{''.join(lines)}</table>"

    def scale(self, spot, low, high, unit, decimals, rows=0):
        """The frame of a chart, and how times and values become places in it; as large as it will be shown."""
        width, height = 1576 / 24 * spot["w"] - 26, 38 * spot["h"] - 52 - min(84, 15 * rows)
        left, bottom = 66, 16
        across = lambda t: left + (t - self.start) / max(1, self.end - self.start) * (width - left - 4)
        up = lambda v: 6 + (1 - (v - low) / ((high - low) or 1)) * (height - bottom - 6)
        parts = []
        for i in range(5):
            value = low + (high - low) * i / 4
            parts.append(f'<line x1="{left}" x2="{width}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="#25272c"/>'
                         f'<text x="{left - 5}" y="{up(value) + 3:.1f}" text-anchor="end">'
                         f'{html.escape(shown(value, unit, decimals))}</text>')
        for i in range(5):
            at = self.start + (self.end - self.start) * i / 4
            anchor = "start" if i == 0 else "end" if i == 4 else "middle"
            parts.append(f'<text x="{across(at):.1f}" y="{height - 3}" text-anchor="{anchor}">'
                         f'{time.strftime("%H:%M:%S", time.gmtime(at))}</text>')
        return width, height, across, up, parts

    def lines(self, panel, defaults):
        series = [one for target in panel["targets"] for one in self.range(target)]
        series = [(name, [(t, v) for t, v in points if not math.isnan(v)]) for name, points in series]
        series = [one for one in series if one[1]]
        if not series:
            return ""
        dashed = {o["matcher"]["options"]: next(p["value"]["fixedColor"] for p in o["properties"] if p["id"] == "color")
                  for o in panel["fieldConfig"]["overrides"]}
        stacked = defaults["custom"]["stacking"]["mode"] == "normal"
        base, drawn = {}, []
        for name, points in series:
            below = [(t, base.get(t, 0.0)) for t, _ in points]
            above = [(t, v + (base.get(t, 0.0) if stacked else 0)) for t, v in points]
            if stacked:
                base.update(dict(above))
            drawn.append((name, points, below, above))
        high = max(v for _, _, _, above in drawn for _, v in above)
        high = max(defaults.get("max", 0), high * 1.05) or 1
        low = min(0, min(v for _, _, _, above in drawn for _, v in above))
        unit, decimals = defaults["unit"], defaults.get("decimals")
        width, height, across, up, parts = self.scale(panel["gridPos"], low, high, unit, decimals, len(drawn))
        rows = []
        for i, (name, points, below, above) in enumerate(drawn):
            color = NAMED.get(dashed[name], dashed[name]) if name in dashed else COLORS[i % len(COLORS)]
            # A gap is a gap: after it the line begins anew.
            runs, last = [], None
            for (t, v), (_, b) in zip(above, below):
                if last is None or t - last > 2.5 * self.step:
                    runs.append([])
                runs[-1].append((across(t), up(v), up(b)))
                last = t
            for run in runs:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in run)
                if stacked:
                    back = " ".join(f"{x:.1f},{b:.1f}" for x, _, b in reversed(run))
                    parts.append(f'<polygon points="{path} {back}" fill="{color}" fill-opacity="0.4"/>')
                style = ' stroke-dasharray="8 6"' if name in dashed else ""
                parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"{style}/>')
            rows.append(f'<div><span><i style="background:{color}"></i>{html.escape(name)}</span>'
                        f"<em>{shown(points[-1][1], unit, decimals)}</em></div>")
        return (f'<svg viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'
                f'<div class="legend">{"".join(rows)}</div>')

    def timeline(self, panel, defaults):
        series = self.range(panel["targets"][0])
        if not series:
            return ""
        width, height, across, _, _ = self.scale(panel["gridPos"], 0, 1, "none", None, 2)
        tall, parts = min(40, (height - 20) / len(series)), []
        for i, (name, points) in enumerate(series):
            for t, v in points:
                _, color = mapped(v, defaults) or ("", "#555")
                parts.append(f'<rect x="{across(t):.1f}" y="{i * tall + 4:.1f}" height="{tall - 6:.1f}" '
                             f'width="{across(self.start + self.step) - across(self.start) + 0.5:.1f}" fill="{color}"/>')
            parts.append(f'<text x="72" y="{i * tall + tall / 2 + 4:.1f}" style="fill:#fff;font-size:11px">{html.escape(name)}</text>')
        for i in range(5):
            at = self.start + (self.end - self.start) * i / 4
            anchor = "start" if i == 0 else "end" if i == 4 else "middle"
            parts.append(f'<text x="{across(at):.1f}" y="{height - 3}" text-anchor="{anchor}">'
                         f'{time.strftime("%H:%M:%S", time.gmtime(at))}</text>')
        words = "".join(f'<div><span><i style="background:{NAMED[o["color"]]}"></i>{o["text"]}</span></div>'
                        for o in defaults["mappings"][0]["options"].values())
        return (f'<svg viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'
                f'<div class="legend">{words}</div>')

    def heatmap(self, panel, defaults):
        series = sorted(self.range(panel["targets"][0]), key=lambda one: float(one[0].replace("+Inf", "inf")))
        cells, below = [], {}
        for name, points in series:
            cells.append((name, [(t, max(0.0, v - below.get(t, 0.0))) for t, v in points]))
            below = dict(points)
        used = [i for i, (_, points) in enumerate(cells) if any(v > 0 for _, v in points)]
        if not used:
            return ""
        cells = cells[max(0, used[0] - 1):used[-1] + 2]
        most = max(v for _, points in cells for _, v in points) or 1
        width, height, across, _, _ = self.scale(panel["gridPos"], 0, 1, "none", None)
        tall, parts = (height - 20) / len(cells), []
        for i, (name, points) in enumerate(cells):
            y = height - 16 - (i + 1) * tall
            for t, v in points:
                if v > 0:
                    parts.append(f'<rect x="{across(t):.1f}" y="{y:.1f}" height="{tall - 1:.1f}" fill="#5794f2" '
                                 f'width="{across(self.start + self.step) - across(self.start):.1f}" '
                                 f'fill-opacity="{0.1 + 0.9 * math.sqrt(v / most):.2f}"/>')
            if len(cells) < 14 or i % 2 == 0:
                word = "more" if "Inf" in name else shown(float(name), "s")
                parts.append(f'<text x="61" y="{y + 4:.1f}" text-anchor="end">{word}</text>')
        for i in range(5):
            at = self.start + (self.end - self.start) * i / 4
            anchor = "start" if i == 0 else "end" if i == 4 else "middle"
            parts.append(f'<text x="{across(at):.1f}" y="{height - 3}" text-anchor="{anchor}">'
                         f'{time.strftime("%H:%M:%S", time.gmtime(at))}</text>')
        return f'<svg viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus")
    parser.add_argument("dashboard")
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--end", type=int, default=None)
    parser.add_argument("--rows", default="", help="only these headings, separated by commas")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    with open(given.dashboard) as file:
        dashboard = json.load(file)
    variables = {v["name"]: ".*" for v in dashboard["templating"]["list"] if v["type"] == "query"}
    variables.update(pair.split("=", 1) for pair in given.set)
    end = given.end or int(time.time())
    preview = Preview(given.prometheus, int(end - given.minutes * 60), end, variables)
    wanted, chosen, heading = [name.strip() for name in given.rows.split(",") if name.strip()], [], ""
    for panel in dashboard["panels"]:
        heading = panel["title"] if panel["type"] == "row" else heading
        if not wanted or heading in wanted:
            chosen.append(panel)
    top = min(panel["gridPos"]["y"] for panel in chosen)
    for panel in chosen:
        panel["gridPos"]["y"] -= top
    panels = "\n".join(preview.panel(panel) for panel in chosen)
    with open(given.out, "w") as file:
        file.write(f'<!doctype html><meta charset="utf-8"><title>{dashboard["title"]}</title><style>{STYLE}</style>'
                   f'<h1>{dashboard["title"]}</h1><div class="grid">{panels}</div>')
    for title in preview.missing:
        print(f"no data: {title}")


if __name__ == "__main__":
    main()
