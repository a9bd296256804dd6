#!/usr/bin/env python3
"""Writes the dashboards of ../dashboards. Needs Python 3.8 and nothing else.

    python3 grafana/tools/dashboards.py           writes them
    python3 grafana/tools/dashboards.py --check   fails if a file is not what would be written
"""

import json
import pathlib
import sys

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"
LINK_TAG = "qaflow"

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


def steps(*pairs):
    """Thresholds: colours from values on; the first has no value."""
    return {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in pairs]}


PLAIN = steps((GREEN, None))
INFO = steps((BLUE, None))


def mapping(**words):
    """Names for numbers: name=(value, colour)."""
    options = {str(v): {"text": text, "color": color, "index": i} for i, (text, (v, color)) in enumerate(words.items())}
    return [{"type": "value", "options": options}]


BUDGET_STATES = mapping(within=(0, GREEN), close=(1, YELLOW), over=(2, RED))
BREAKER_STATES = mapping(closed=(0, GREEN), open=(1, RED))
UP_STATES = mapping(down=(0, RED), up=(1, GREEN))


class Board:
    """One dashboard; panels are laid out from left to right in rows of 24 columns."""

    def __init__(self, uid, title, description, variables, annotations=(), since="now-1h"):
        self.uid, self.title, self.description, self.since = uid, title, description, since
        self.variables, self.annotations = variables, annotations
        self.panels, self.x, self.y, self.height = [], 0, 0, 0

    def place(self, width, height):
        if self.x + width > 24:
            self.x, self.y, self.height = 0, self.y + self.height, 0
        spot = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.x, self.height = self.x + width, max(self.height, height)
        return spot

    def row(self, title):
        self.y, self.x, self.height = self.y + self.height, 0, 0
        spot = {"x": 0, "y": self.y, "w": 24, "h": 1}
        self.panels.append({"id": len(self.panels) + 1, "type": "row", "title": title, "collapsed": False,
                            "gridPos": spot, "panels": []})
        self.y += 1

    def add(self, kind, title, description, targets, options, unit, width, height, instant=False, custom=None,
            thresholds=None, mappings=None, low=None, high=None, decimals=None, overrides=(), transformations=(),
            interval=None, color=None):
        defaults = {"unit": unit, "thresholds": thresholds or PLAIN, "mappings": mappings or [],
                    "color": {"mode": color or ("thresholds" if thresholds or mappings else "palette-classic")}}
        for name, value in (("min", low), ("max", high), ("decimals", decimals), ("custom", custom)):
            if value is not None:
                defaults[name] = value
        if isinstance(targets, str):
            targets = [(targets, "")]
        queries = []
        for i, (expression, legend) in enumerate(targets):
            query = {"refId": chr(ord("A") + i), "datasource": PROMETHEUS, "expr": " ".join(expression.split()),
                     "legendFormat": legend or "__auto", "editorMode": "code", "instant": instant,
                     "range": not instant}
            if kind == "heatmap":
                query["format"] = "heatmap"
            if kind == "table":
                query["format"] = "table"
            queries.append(query)
        panel = {"id": len(self.panels) + 1, "type": kind, "title": title, "description": description,
                 "datasource": PROMETHEUS, "gridPos": self.place(width, height), "targets": queries,
                 "fieldConfig": {"defaults": defaults, "overrides": list(overrides)}, "options": options}
        if transformations:
            panel["transformations"] = list(transformations)
        if interval:
            panel["interval"] = interval
        self.panels.append(panel)

    def stat(self, title, description, expression, unit="short", width=4, height=4, graph="none", **more):
        options = {"colorMode": "value", "graphMode": graph, "justifyMode": "auto", "orientation": "auto",
                   "percentChangeColorMode": "standard", "showPercentChange": False, "textMode": "auto",
                   "wideLayout": True, "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
        more.setdefault("thresholds", INFO)
        self.add("stat", title, description, expression, options, unit, width, height, instant=graph == "none", **more)

    def bars(self, title, description, expression, legend, unit="short", width=8, height=8, **more):
        options = {"displayMode": "gradient", "orientation": "horizontal", "namePlacement": "auto", "sizing": "auto",
                   "minVizHeight": 16, "minVizWidth": 8, "maxVizHeight": 300, "showUnfilled": True,
                   "valueMode": "color",
                   "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
                   "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
        more.setdefault("thresholds", INFO)
        self.add("bargauge", title, description, [(expression, legend)], options, unit, width, height, instant=True,
                 low=more.pop("low", 0), **more)

    def lines(self, title, description, targets, unit="short", width=8, height=8, stack=False, fill=None, calcs=None,
              dashed=(), **more):
        custom = {"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 2, "showPoints": "never",
                  "fillOpacity": fill if fill is not None else (40 if stack else 8), "gradientMode": "none",
                  "spanNulls": False, "stacking": {"mode": "normal" if stack else "none", "group": "A"},
                  "axisSoftMin": 0, "axisPlacement": "auto", "scaleDistribution": {"type": "linear"}}
        options = {"legend": {"calcs": calcs or ["lastNotNull"], "displayMode": "table", "placement": "bottom",
                              "showLegend": True},
                   "tooltip": {"mode": "multi", "sort": "desc"}}
        overrides = [{"matcher": {"id": "byName", "options": name},
                      "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
                                     {"id": "custom.fillOpacity", "value": 0},
                                     {"id": "color", "value": {"mode": "fixed", "fixedColor": color}}]}
                     for name, color in dashed]
        self.add("timeseries", title, description, targets, options, unit, width, height, custom=custom,
                 overrides=overrides, **more)

    def timeline(self, title, description, expression, legend, mappings, width=8, height=8):
        options = {"mergeValues": True, "showValue": "auto", "alignValue": "center", "rowHeight": 0.8,
                   "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
                   "tooltip": {"mode": "single", "sort": "none"}}
        self.add("state-timeline", title, description, [(expression, legend)], options, "none", width, height,
                 mappings=mappings, custom={"fillOpacity": 70, "lineWidth": 0})

    def heatmap(self, title, description, expression, unit, width=12, height=8):
        options = {"calculate": False, "cellGap": 1, "cellValues": {}, "showValue": "never",
                   "color": {"mode": "scheme", "scheme": "Blues", "fill": "dark-blue", "exponent": 0.5,
                             "reverse": False, "steps": 64, "scale": "exponential"},
                   "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9},
                   "legend": {"show": True}, "rowsFrame": {"layout": "auto"},
                   "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
                   "yAxis": {"unit": unit, "axisPlacement": "left", "reverse": False}}
        self.add("heatmap", title, description, [(expression, "{{le}}")], options, unit, width, height,
                 custom={"scaleDistribution": {"type": "linear"},
                         "hideFrom": {"legend": False, "tooltip": False, "viz": False}})

    def table(self, title, description, columns, key, width=24, height=8):
        """A line for each value of the labels `key`; `columns` are (name, expression, unit, thresholds, mappings), and
        one without a name brings its labels alone."""
        options = {"frameIndex": 0, "showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": key[0]}]}
        values = [f"Value #{chr(ord('A') + i)}" for i in range(len(columns))]
        names = {value: column[0] for value, column in zip(values, columns) if column[0]}
        hidden = {"Time": True, **{value: True for value, column in zip(values, columns) if not column[0]}}
        overrides = []
        for name, _, unit, thresholds, mappings in columns:
            if not name:
                continue
            properties = [{"id": "unit", "value": unit}]
            if thresholds:
                properties += [{"id": "thresholds", "value": thresholds},
                               {"id": "custom.cellOptions", "value": {"type": "color-text"}}]
            if mappings:
                properties += [{"id": "mappings", "value": mappings},
                               {"id": "custom.cellOptions", "value": {"type": "color-text"}}]
            overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
        order = {name: i for i, name in enumerate(list(key) + list(names))}
        transformations = [{"id": "merge", "options": {}},
                           {"id": "organize", "options": {"excludeByName": hidden, "indexByName": order,
                                                          "renameByName": names}}]
        self.add("table", title, description, [(column[1], "") for column in columns], options, "short", width, height,
                 instant=True, custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
                 overrides=overrides, transformations=transformations, color="thresholds")

    def json(self):
        return {
            "uid": self.uid, "title": self.title, "description": self.description, "tags": [LINK_TAG],
            "schemaVersion": 42, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s",
            "timezone": "browser", "time": {"from": self.since, "to": "now"}, "timepicker": {},
            "fiscalYearStartMonth": 0, "weekStart": "", "id": None,
            "annotations": {"list": list(self.annotations)}, "templating": {"list": self.variables},
            "links": [{"type": "dashboards", "title": "qaflow", "tags": [LINK_TAG], "asDropdown": True,
                       "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link",
                       "tooltip": "The other dashboards of qaflow"}],
            "panels": self.panels,
        }


def datasource():
    return {"name": "datasource", "type": "datasource", "label": "Data source", "query": "prometheus", "regex": "",
            "description": "The Prometheus that reads qaflow", "hide": 0, "includeAll": False, "multi": False,
            "refresh": 1, "options": []}


def variable(name, label, description, query, multi=True):
    model = {"name": name, "type": "query", "label": label, "description": description, "datasource": PROMETHEUS,
             "query": {"query": query, "refId": name, "qryType": 1}, "hide": 0, "includeAll": multi, "multi": multi,
             "refresh": 2, "regex": "", "sort": 1, "options": []}
    if multi:
        model["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]}
        model["allValue"] = ".*"
    return model


def attempts(selector):
    """A mark where an attempt begins."""
    return [{"name": "Attempts", "enable": True, "hide": False, "iconColor": "light-blue", "datasource": PROMETHEUS,
             "target": {"refId": "Anno", "expr": f"qaflow_process_start_time_seconds{{{selector}}} * 1000",
                        "interval": "60s", "legendFormat": "{{state}} on {{instance}}"},
             "useValueForTime": True, "titleFormat": "attempt begins", "tagKeys": ""}]


def latest(metric, selector, each):
    """The sum over states of a number that only grows: of each state the latest within the range, though its process
    may have ended or its attempts have run on several hosts."""
    return f"sum(max {each} (max_over_time({metric}{{{selector}}}[$__range])))"


def run():
    f = 'run_id=~"$run_id",state=~"$state"'
    board = Board("qaflow-run", "qaflow: run",
                  "One run from the inside: progress, stages, failures, model, GPUs, budget, machine.",
                  [datasource(),
                   variable("run_id", "Run", "The run's name", "label_values(qaflow_run_info, run_id)", multi=False),
                   variable("state", "State", "The states of the run, one a shard",
                            'label_values(qaflow_run_info{run_id=~"$run_id"}, state)')],
                  attempts(f))
    b = board
    each = "by (run_id, state, shard)"
    b.row("Overview")
    b.stat("Documents done", "Share of the input's documents of which nothing is left to do. States that have ended "
           "within the range count as they ended.",
           f"{latest('qaflow_documents_done', f, each)} / {latest('qaflow_documents_found', f, each)}", "percentunit",
           low=0, high=1)
    b.stat("Time to go", "Estimated time to the end of the slowest state. Empty while nothing can be said.",
           f"max(qaflow_eta_seconds{{{f}}})", "dtdurations")
    b.stat("Pairs accepted", "Pairs that passed all checks, over all attempts.",
           latest("qaflow_pairs", f + ',outcome="accepted"', each))
    b.stat("Dead letters", "Items given up as a share of all items that came into any stage. 5% is the usual limit.",
           f'sum(qaflow_stage_items{{{f},outcome="dead"}}) / sum(qaflow_stage_items{{{f}}})', "percentunit",
           thresholds=steps((GREEN, None), (YELLOW, 0.02), (RED, 0.05)), decimals=2)
    b.stat("Endpoints up", "Model servers that answer, as a share of all.",
           f"sum(qaflow_model_endpoint_up{{{f}}}) / count(qaflow_model_endpoint_up{{{f}}})", "percentunit",
           thresholds=steps((RED, None), (YELLOW, 0.5), (GREEN, 1)))
    b.stat("Budget state", "How the projected GPU-hours stand to the budget, of several states the worst: each stops at its "
           "own. Empty without a budget.",
           f"max(qaflow_budget_state{{{f}}})", "none", mappings=BUDGET_STATES)
    b.lines("Documents", "Documents done, and documents of the input, of the states at work.",
            [(f"sum(qaflow_documents_done{{{f}}})", "done"), (f"sum(qaflow_documents_found{{{f}}})", "input")],
            dashed=[("input", "text")])
    b.lines("Pairs", "Pairs over all attempts by what became of them.",
            [(f"sum by (outcome) (qaflow_pairs{{{f}}})", "{{outcome}}")], stack=True)
    b.table("What runs", "Attempt, program and model of each state.",
            [("attempt", f"max by (state, shard) (qaflow_run_attempt{{{f}}})", "none", None, None),
             ("", f"max by (state, shard, version, pipeline, model) (qaflow_run_info{{{f}}})", "none", None, None)],
            ["state", "shard"], width=8)

    b.row("Throughput")
    b.lines("Items ended", "Items that each stage ended, a minute.",
            [(f"60 * sum by (stage) (rate(qaflow_items_total{{{f}}}{RATE}))", "{{stage}}")], "cpm")
    b.lines("Items taken up and made", "Items that each stage took up, and items that it made, a minute.",
            [(f"60 * sum by (stage) (rate(qaflow_items_in_total{{{f}}}{RATE}))", "{{stage}} in"),
             (f"60 * sum by (stage) (rate(qaflow_items_emitted_total{{{f}}}{RATE}))", "{{stage}} out")], "cpm")
    b.lines("Tokens", "Tokens of answers received, a second. Cached tokens are part of the prompt's.",
            [(f"sum by (kind) (rate(qaflow_model_tokens_total{{{f}}}{RATE}))", "{{kind}}")], "cps")

    b.row("Stages and queues")
    b.lines("Waiting in the store", "Items that each stage has still to do, those in its hands included.",
            [(f'sum by (stage) (qaflow_stage_items{{{f},outcome="pending"}})', "{{stage}}")])
    b.lines("Queues", "How full the channel before each stage is. One that stays full waits for the stage behind it.",
            [(f"max by (stage) (qaflow_queue_depth{{{f}}} / qaflow_queue_capacity{{{f}}})", "{{stage}}")],
            "percentunit", high=1)
    b.lines("In hand", "Items that each stage is processing.",
            [(f"sum by (stage) (qaflow_stage_in_flight{{{f}}})", "{{stage}}")])
    b.lines("Time an item takes", "Median (and 95th percentile) of the time a stage takes for an item, its waits for "
            "the model and its commit included.",
            [(f"histogram_quantile(0.5, sum by (le, stage) (rate(qaflow_stage_duration_seconds_bucket{{{f}}}{RATE})))",
              "{{stage}} median"),
             (f"histogram_quantile(0.95, sum by (le, stage) (rate(qaflow_stage_duration_seconds_bucket{{{f}}}{RATE})))",
              "{{stage}} p95")], "s")
    b.bars("Items by stage", "Items of each stage over all attempts that are done, rejected, dead or pending.",
           f"sum by (stage, outcome) (qaflow_stage_items{{{f}}}) > 0", "{{stage}} {{outcome}}")
    b.bars("Items made of one", "How many items a stage made of one that it did, over all attempts.",
           f'sum by (stage) (qaflow_stage_emitted{{{f}}}) / (sum by (stage) (qaflow_stage_items{{{f},outcome="done"}}) > 0)',
           "{{stage}}", decimals=1)

    b.row("Failures")
    b.lines("Rejected, by check", "Items that checks refused, a minute.",
            [(f"60 * sum by (reason) (rate(qaflow_items_rejected_total{{{f}}}{RATE}))", "{{reason}}")],
            "cpm", stack=True)
    b.lines("Given up, by reason", "Dead letters of this attempt, by label. Empty if there are none.",
            [(f"sum by (stage, reason) (qaflow_items_dead_total{{{f}}}) > 0", "{{stage}} {{reason}}")], stack=True)
    b.lines("Share given up", "Dead letters as a share of all items of a stage, over all attempts.",
            [(f'sum by (stage) (qaflow_stage_items{{{f},outcome="dead"}}) / sum by (stage) (qaflow_stage_items{{{f}}})',
              "{{stage}}")], "percentunit")
    b.lines("Tried again", "Model calls made again after a failure of server or transport, answers that could not be "
            "used, and items that a stage tried again; a minute.",
            [(f"60 * sum by (reason) (rate(qaflow_model_retries_total{{{f}}}{RATE}))", "call: {{reason}}"),
             (f"60 * sum by (reason) (rate(qaflow_answers_unusable_total{{{f}}}{RATE}))", "answer: {{reason}}"),
             (f"60 * sum by (stage) (rate(qaflow_items_retried_total{{{f}}}{RATE}))", "item: {{stage}}")], "cpm",
            width=12)
    b.lines("Error share of model requests", "Requests that failed as a share of all that ended, by endpoint.",
            [(f'sum by (endpoint) (rate(qaflow_model_requests_total{{{f},outcome!="ok"}}{RATE})) / '
              f"sum by (endpoint) (rate(qaflow_model_requests_total{{{f}}}{RATE})) "
              f"or 0 * sum by (endpoint) (rate(qaflow_model_requests_total{{{f}}}{RATE}))", "{{endpoint}}")],
            "percentunit", width=12)

    b.row("Model")
    b.lines("Requests", "Requests that ended, a second, by outcome.",
            [(f"sum by (outcome) (rate(qaflow_model_requests_total{{{f}}}{RATE}))", "{{outcome}}")], "reqps",
            stack=True)
    b.lines("Time to answer", "Median, 95th and 99th percentile of the time from a request to its end.",
            [(f"histogram_quantile({q}, sum by (le) (rate(qaflow_model_request_duration_seconds_bucket{{{f}}}{RATE})))",
              name) for q, name in ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))], "s")
    b.heatmap("Times to answer", "How the times to answer are spread.",
              f"sum by (le) (increase(qaflow_model_request_duration_seconds_bucket{{{f}}}{RATE}))", "s", width=8)
    b.lines("Concurrency", "Requests that are with the model, that may be at once, and that wait for a slot.",
            [(f"sum by (endpoint) (qaflow_model_in_flight{{{f}}})", "{{endpoint}} in flight"),
             (f"sum by (endpoint) (qaflow_model_slots{{{f}}})", "{{endpoint}} limit"),
             (f"sum by (endpoint) (qaflow_model_waiting{{{f}}})", "{{endpoint}} waiting")])
    b.timeline("Breakers", "When an endpoint was out and nothing was sent to it.",
               f"max by (endpoint) (qaflow_model_breaker_open{{{f}}})", "{{endpoint}}", BREAKER_STATES)
    b.timeline("Endpoints", "When the latest requests to an endpoint failed.",
               f"min by (endpoint) (qaflow_model_endpoint_up{{{f}}})", "{{endpoint}}", UP_STATES)
    b.lines("Prompt tokens from the cache", "Share of prompt tokens that the server found in its prefix cache, as its "
            "answers say, and as its own counters say.",
            [(f'sum(rate(qaflow_model_tokens_total{{{f},kind="cached"}}{RATE})) / '
              f'sum(rate(qaflow_model_tokens_total{{{f},kind="prompt"}}{RATE}))', "by answers"),
             (f"sum(rate(qaflow_server_prefix_cache_hits_total{{{f}}}{RATE})) / "
              f"sum(rate(qaflow_server_prefix_cache_queries_total{{{f}}}{RATE}))", "by the server")],
            "percentunit", high=1)
    b.lines("Model server", "Requests in service and queued, as the servers say. With telemetry.vllm_metrics.",
            [(f"sum by (endpoint) (qaflow_server_requests_running{{{f}}})", "{{endpoint}} running"),
             (f"sum by (endpoint) (qaflow_server_requests_waiting{{{f}}})", "{{endpoint}} queued")])
    b.lines("Key-value cache", "Share of the servers' key-value cache in use. With telemetry.vllm_metrics.",
            [(f"max by (endpoint) (qaflow_server_kv_cache_usage_ratio{{{f}}})", "{{endpoint}}")], "percentunit",
            high=1)
    b.stat("Answers from the journal", "Answers of earlier attempts that were found in the state and not bought again, "
           "in this attempt.", f"sum(qaflow_journal_hits_total{{{f}}})", width=8)
    b.stat("Endpoints went out", "Times that an endpoint went out, in this attempt.",
           f"sum(qaflow_model_breaker_opened_total{{{f}}})", width=8, thresholds=steps((GREEN, None), (YELLOW, 1)))
    b.stat("Tokens an answer", "Completion tokens of an answer, on average over the last minutes.",
           f'sum(rate(qaflow_model_tokens_total{{{f},kind="completion"}}{RATE})) / '
           f'sum(rate(qaflow_model_requests_total{{{f},outcome="ok"}}{RATE}))', width=8, decimals=0)

    b.row("GPUs and budget")
    b.lines("GPU utilisation", "Share of the time in which each GPU was at work.",
            [(f"max by (gpu) (qaflow_gpu_utilization_ratio{{{f}}})", "{{gpu}}")], "percentunit", high=1)
    b.lines("GPU memory", "Memory in use on each GPU, as a share of what it has.",
            [(f"max by (gpu) (qaflow_gpu_memory_used_bytes{{{f}}} / qaflow_gpu_memory_total_bytes{{{f}}})", "{{gpu}}")],
            "percentunit", high=1)
    b.lines("GPU power", "Power that each GPU draws.",
            [(f"max by (gpu) (qaflow_gpu_power_watts{{{f}}})", "{{gpu}}")], "watt")
    b.lines("GPU temperature", "Temperature of each GPU.",
            [(f"max by (gpu) (qaflow_gpu_temperature_celsius{{{f}}})", "{{gpu}}")], "celsius")
    b.stat("GPUs held", "GPUs that the running attempts hold.", f"sum(qaflow_gpu_held{{{f}}})", "none", height=8)
    b.stat("GPU-time held", "GPU-time that was held, over all attempts of the states at work.",
           f"sum(qaflow_gpu_seconds_total{{{f}}})", "s", height=8)
    b.stat("Energy", "Energy that the GPUs used in the running attempts.",
           f"sum(qaflow_gpu_energy_joules_total{{{f}}})", "joule", height=8)
    b.stat("Used of budget", "GPU-hours used as a share of the budget.",
           f"sum(qaflow_budget_used_gpu_seconds{{{f}}}) / sum(qaflow_budget_gpu_seconds{{{f}}})", "percentunit",
           height=8, thresholds=steps((GREEN, None), (YELLOW, 0.9), (RED, 1)), decimals=1)
    b.lines("Budget", "GPU-hours used, projected for the whole run (expected, and the bounds of 90%), and the budget.",
            [(f"sum(qaflow_budget_used_gpu_seconds{{{f}}}) / 3600", "used"),
             (f"sum by (bound) (qaflow_budget_projected_gpu_seconds{{{f}}}) / 3600", "projected: {{bound}}"),
             (f"sum(qaflow_budget_gpu_seconds{{{f}}}) / 3600", "budget")], "none", width=24, dashed=[("budget", "red")],
            decimals=3)

    b.row("Machine")
    b.lines("Commits", "Median and 99th percentile of the time of a commit, flush included.",
            [(f"histogram_quantile({q}, sum by (le) (rate(qaflow_commit_duration_seconds_bucket{{{f}}}{RATE})))", name)
             for q, name in ((0.5, "median"), (0.99, "p99"))], "s", width=6)
    b.lines("Changes a commit", "Median and 95th percentile of the number of changes in one commit.",
            [(f"histogram_quantile({q}, sum by (le) (rate(qaflow_commit_changes_bucket{{{f}}}{RATE})))", name)
             for q, name in ((0.5, "median"), (0.95, "p95"))], "short", width=6)
    b.lines("Memory", "Memory of the process: resident, and the most so far.",
            [(f"sum by (state) (qaflow_process_memory_bytes{{{f}}})", "{{state}}"),
             (f"sum by (state) (qaflow_process_memory_peak_bytes{{{f}}})", "{{state}} peak")], "bytes", width=6)
    b.lines("Processor", "Cores that the process keeps busy.",
            [(f"sum by (state) (rate(qaflow_process_cpu_seconds_total{{{f}}}{RATE}))", "{{state}}")], "none", width=6,
            decimals=2)
    b.lines("Disk", "Free space of the file system that holds the state, as a share of its size.",
            [(f"min by (state) (qaflow_disk_free_bytes{{{f}}} / qaflow_disk_total_bytes{{{f}}})", "{{state}}")],
            "percentunit", width=12, high=1)
    b.lines("Size of the state", "Space that the state's database and texts take.",
            [(f"sum by (state) (qaflow_state_bytes{{{f}}})", "{{state}}")], "bytes", width=12)
    return board


def fleet():
    f = 'run_id=~"$run_id"'
    by = "by (run_id, state, shard)"

    def ended(metric, more=""):
        """The latest of each state within the range, of a number that only grows: its process may have ended."""
        return f"max {by} (max_over_time({metric}{{{f}{more}}}[$__range]))"

    board = Board("qaflow-fleet", "qaflow: fleet", "All states of one or more runs side by side: shards of a corpus, "
                  "jobs of a cluster.",
                  [datasource(), variable("run_id", "Run", "Runs to show", "label_values(qaflow_run_info, run_id)")],
                  attempts(f), since="now-24h")
    b = board
    b.row("All together")
    b.stat("States at work", "States whose process answers Prometheus.", f"count(qaflow_run_attempt{{{f}}})", "none")
    b.stat("Silent", "Announced states whose process does not answer: killed and not yet started again.",
           f'count(up{{job="qaflow",{f}}}) - sum(up{{job="qaflow",{f}}})', "none",
           thresholds=steps((GREEN, None), (RED, 1)))
    b.stat("Documents done", "Share of all documents of which nothing is left to do.",
           f"{latest('qaflow_documents_done', f, by)} / {latest('qaflow_documents_found', f, by)}", "percentunit")
    b.stat("Pairs accepted", "Pairs that passed all checks, over all states and attempts.",
           latest("qaflow_pairs", f + ',outcome="accepted"', by))
    b.stat("GPU-hours used", "GPU-hours used by all states together, over all attempts.",
           latest("qaflow_budget_used_gpu_seconds", f, by) + " / 3600", "none", decimals=2)
    b.stat("Time to the end", "Estimated time to the end of the slowest state.", f"max(qaflow_eta_seconds{{{f}}})",
           "dtdurations")
    share = steps((GREEN, None), (YELLOW, 0.02), (RED, 0.05))
    b.table("States", "One line for each state that worked within the range. What only a running process knows is "
            "empty for those that have ended.",
            [("attempt", ended("qaflow_run_attempt"), "none", None, None),
             ("documents", ended("qaflow_documents_found"), "none", None, None),
             ("done", ended("qaflow_documents_done"), "none", None, None),
             ("pairs", ended("qaflow_pairs", ',outcome="accepted"'), "none", None, None),
             ("given up", f'sum {by} (max_over_time(qaflow_stage_items{{{f},outcome="dead"}}[$__range])) / '
              f"sum {by} (max_over_time(qaflow_stage_items{{{f}}}[$__range]))", "percentunit", share, None),
             ("to go", f"max {by} (qaflow_eta_seconds{{{f}}})", "dtdurations", None, None),
             ("endpoints up", f"sum {by} (qaflow_model_endpoint_up{{{f}}}) / count {by} (qaflow_model_endpoint_up{{{f}}})",
              "percentunit", steps((RED, None), (GREEN, 1)), None),
             ("GPU-hours", ended("qaflow_budget_used_gpu_seconds") + " / 3600", "none", None, None),
             ("budget", f"max {by} (qaflow_budget_state{{{f}}})", "none", None, BUDGET_STATES),
             ("disk free", f"min {by} (qaflow_disk_free_bytes{{{f}}})", "bytes", None, None)],
            ["run_id", "state", "shard"], height=9)

    b.row("Progress")
    b.bars("Documents done, by state", "Share of its documents that a state has done. The slowest decides.",
           f"{ended('qaflow_documents_done')} / ({ended('qaflow_documents_found')} > 0)", "{{state}} {{shard}}",
           "percentunit", high=1)
    b.lines("Items ended", "Items ended a minute, over all stages, by state.",
            [(f"60 * sum by (state, shard) (rate(qaflow_items_total{{{f}}}{RATE}))", "{{state}} {{shard}}")], "cpm",
            stack=True)
    b.lines("Waiting in the store", "Items still to do, over all stages, by state.",
            [(f'sum by (state, shard) (qaflow_stage_items{{{f},outcome="pending"}})', "{{state}} {{shard}}")],
            stack=True)
    b.lines("Time to go, by state", "Estimated time to the end of each state.",
            [(f"max by (state, shard) (qaflow_eta_seconds{{{f}}})", "{{state}} {{shard}}")], "dtdurations")
    b.timeline("Processes", "When each state's process answered Prometheus.",
               f'max by (state, shard) (up{{job="qaflow",{f}}})', "{{state}} {{shard}}", UP_STATES)
    b.lines("Share given up", "Dead letters as a share of all items, by state.",
            [(f'sum by (state, shard) (qaflow_stage_items{{{f},outcome="dead"}}) / '
              f"sum by (state, shard) (qaflow_stage_items{{{f}}})", "{{state}} {{shard}}")], "percentunit")

    b.row("Model")
    b.lines("Requests", "Model requests a second, by state.",
            [(f"sum by (state, shard) (rate(qaflow_model_requests_total{{{f}}}{RATE}))", "{{state}} {{shard}}")],
            "reqps", stack=True)
    b.lines("Error share", "Requests that failed as a share of all that ended, by state.",
            [(f'sum by (state, shard) (rate(qaflow_model_requests_total{{{f},outcome!="ok"}}{RATE})) / '
              f"sum by (state, shard) (rate(qaflow_model_requests_total{{{f}}}{RATE})) or "
              f"0 * sum by (state, shard) (rate(qaflow_model_requests_total{{{f}}}{RATE}))", "{{state}} {{shard}}")],
            "percentunit")
    b.timeline("Endpoints out", "When any endpoint of a state was out.",
               f"max by (state, shard) (qaflow_model_breaker_open{{{f}}})", "{{state}} {{shard}}", BREAKER_STATES)

    b.row("GPUs, budget and machines")
    b.lines("GPU utilisation", "Mean over the GPUs of a state.",
            [(f"avg by (state, shard) (qaflow_gpu_utilization_ratio{{{f}}})", "{{state}} {{shard}}")], "percentunit",
            high=1)
    b.lines("Budget", "GPU-hours used, projected and allowed, over all states.",
            [(f"sum(qaflow_budget_used_gpu_seconds{{{f}}}) / 3600", "used"),
             (f"sum by (bound) (qaflow_budget_projected_gpu_seconds{{{f}}}) / 3600", "projected: {{bound}}"),
             (f"sum(qaflow_budget_gpu_seconds{{{f}}}) / 3600", "budget")], "none", dashed=[("budget", "red")], decimals=3)
    b.lines("Memory", "Memory of each state's process.",
            [(f"sum by (state, shard) (qaflow_process_memory_bytes{{{f}}})", "{{state}} {{shard}}")], "bytes")
    return board


def benchmarks():
    f = 'run_id=~"$run_id"'
    whole = "[$__range]"
    board = Board("qaflow-benchmarks", "qaflow: benchmarks", "Runs side by side: what came out, how fast, at what cost. "
                  "Choose a range that holds the runs.",
                  [datasource(), variable("run_id", "Runs", "Runs to compare", "label_values(qaflow_run_info, run_id)")],
                  since="now-24h")
    b = board

    def last(metric, more=""):
        """The greatest value of each state within the range, summed over the states of a run."""
        return f"sum by (run_id) (max_over_time({metric}{{{f}{more}}}{whole}))"

    accepted = last("qaflow_pairs", ',outcome="accepted"')
    hours = f'({last("qaflow_budget_used_gpu_seconds")} / 3600)'
    b.row("What came out")
    b.bars("Documents done", "Documents of which nothing is left to do.", last("qaflow_documents_done"), "{{run_id}}",
           width=6, height=6)
    b.bars("Pairs accepted", "Pairs that passed all checks.", accepted, "{{run_id}}", width=6, height=6)
    b.bars("Pairs a document", "Accepted pairs for each document done.",
           f"{accepted} / ({last('qaflow_documents_done')} > 0)", "{{run_id}}", width=6, height=6, decimals=1)
    b.bars("Acceptance", "Accepted pairs as a share of all pairs that were ended.",
           f"{accepted} / ({last('qaflow_pairs', ',outcome=~' + chr(34) + 'accepted|rejected|dead' + chr(34))} > 0)",
           "{{run_id}}", "percentunit", width=6, height=6, high=1, decimals=1)

    b.row("What it cost")
    b.bars("GPU-hours", "GPU-hours used, over all attempts.", hours, "{{run_id}}", "none", width=6, height=6,
           decimals=3)
    b.bars("Pairs a GPU-hour", "Accepted pairs for each GPU-hour.", f"{accepted} / ({hours} > 0)", "{{run_id}}",
           width=6, height=6)
    b.bars("Documents a GPU-hour", "Documents done for each GPU-hour.",
           f"{last('qaflow_documents_done')} / ({hours} > 0)", "{{run_id}}", width=6, height=6, decimals=1)
    b.bars("GPU utilisation", "Mean over GPUs and range while they were held.",
           f"avg by (run_id) (avg_over_time(qaflow_gpu_utilization_ratio{{{f}}}{whole}))", "{{run_id}}", "percentunit",
           width=6, height=6, high=1)

    b.row("How fast")
    b.lines("Items ended", "Items ended a minute, over all stages and states.",
            [(f"60 * sum by (run_id) (rate(qaflow_items_total{{{f}}}{RATE}))", "{{run_id}}")], "cpm", width=12,
            calcs=["mean", "max"])
    b.lines("Completion tokens", "Tokens of answers, a second.",
            [(f'sum by (run_id) (rate(qaflow_model_tokens_total{{{f},kind="completion"}}{RATE}))', "{{run_id}}")],
            "cps", width=12, calcs=["mean", "max"])
    b.lines("Time to answer", "95th percentile of the time from a request to its end.",
            [(f"histogram_quantile(0.95, sum by (le, run_id) "
              f"(rate(qaflow_model_request_duration_seconds_bucket{{{f}}}{RATE})))", "{{run_id}}")], "s", width=12,
            calcs=["mean", "max"])
    b.lines("Prompt tokens from the cache", "Share of prompt tokens that the server had in its prefix cache.",
            [(f'sum by (run_id) (rate(qaflow_model_tokens_total{{{f},kind="cached"}}{RATE})) / '
              f'sum by (run_id) (rate(qaflow_model_tokens_total{{{f},kind="prompt"}}{RATE}))', "{{run_id}}")],
            "percentunit", width=12, high=1, calcs=["mean"])

    b.row("What went wrong")
    b.bars("Given up", "Dead letters as a share of all items.",
           f"{last('qaflow_stage_items', ',outcome=' + chr(34) + 'dead' + chr(34))} / ({last('qaflow_stage_items')} > 0)",
           "{{run_id}}", "percentunit", width=6, height=6, decimals=2, thresholds=steps((GREEN, None), (YELLOW, 0.02), (RED, 0.05)))
    b.bars("Attempts", "Processes that the run took.", f"max by (run_id) (max_over_time(qaflow_run_attempt{{{f}}}{whole}))",
           "{{run_id}}", "none", width=6, height=6)
    b.bars("Requests that failed", "Failed model requests as a share of all.",
           f'sum by (run_id) (increase(qaflow_model_requests_total{{{f},outcome!="ok"}}{whole})) / '
           f"sum by (run_id) (increase(qaflow_model_requests_total{{{f}}}{whole}))", "{{run_id}}", "percentunit",
           width=6, height=6, decimals=2)
    b.bars("Most memory", "The most memory that a process of the run had resident.",
           f"max by (run_id) (max_over_time(qaflow_process_memory_peak_bytes{{{f}}}{whole}))", "{{run_id}}", "bytes",
           width=6, height=6)
    return board


def main():
    folder = pathlib.Path(__file__).resolve().parent.parent / "dashboards"
    stale = []
    for name, board in (("run", run()), ("fleet", fleet()), ("benchmarks", benchmarks())):
        path = folder / f"{name}.json"
        text = json.dumps(board.json(), indent=2) + "\n"
        if "--check" in sys.argv[1:]:
            if not path.is_file() or path.read_text() != text:
                stale.append(str(path))
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"not as generated: {', '.join(stale)}; run python3 grafana/tools/dashboards.py")


if __name__ == "__main__":
    main()
