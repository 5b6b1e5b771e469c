# What a cluster is asked for, and which jobs are one submission: see workflow/profiles.

import math
from collections import Counter

from hessian_directions.reproduction import cost_model

# Jobs of one network, or of one analysis of no network, are one submission if they take no longer together [s].
SMALL = 3600
# Where nothing tells what a job takes.
UNKNOWN = cost_model.Estimate(seconds=600, bytes=4_000_000_000)

KNOWN = cost_model.expectations(COMPLETE, Path(ARCHIVE))


def expected(rule_name, wildcards):
    """What a job takes."""
    return KNOWN(rule_name, wildcards) or UNKNOWN


def resources_of(rule_name, uses_device=True, processes=1):
    """Memory [MB] and run time [minutes] of a rule's jobs, twice as much with each retry; a GPU where they use one.

    Each process of a job has memory and, where jobs use one, a GPU of its own.
    """

    def mem_mb(wildcards, attempt):
        job = expected(rule_name, wildcards)
        return math.ceil(1.5 * processes * job.bytes / 1e6) * 2 ** (attempt - 1)

    def runtime(wildcards, attempt):
        job = expected(rule_name, wildcards)
        # A job of a second still has to start and to import its libraries, on a busy node from a slow file system.
        return math.ceil(10 + 3 * job.seconds / 60) * 2 ** (attempt - 1)

    on_gpu = uses_device and config["device"] == "cuda"
    return {"mem_mb": mem_mb, "runtime": runtime} | ({"gpu": processes} if on_gpu else {})


def subject_of(rule_name, wildcards):
    """Whose jobs are counted together: a network's, or those of an analysis of no network."""
    return wildcards.get("network", rule_name.removesuffix("_shard"))


SECONDS = Counter()
for rule_name, wildcards in cost_model.jobs(COMPLETE):
    subject = subject_of(rule_name, wildcards)
    SECONDS[subject] += expected(rule_name, wildcards).seconds


def group_of(rule_name):
    """The group of a rule's jobs: `small`, or none where each is a submission."""
    name = rule_name.removesuffix("_shard")

    def group(wildcards):
        # What waits for another network would make its own wait, too.
        if name in OF_NETWORKS and registry.analysis(name).other_networks(
            settings_of(name, wildcards.network)
        ):
            return None
        return "small" if SECONDS[subject_of(rule_name, wildcards)] <= SMALL else None

    return group
