# The verdict for each claim, and the numbers of this machine beside the archive's.


rule decide_claims:
    input:
        **CLAIM_INPUTS,
        code=code("decide_claims"),
    output:
        claims=report(
            "<drawn>/claims.csv",
            caption="../report/claims.rst",
            category="1. Verdicts",
            labels={"table": "claims"},
        ),
        rows=report(
            "<drawn>/claim_rows.csv",
            caption="../report/claims.rst",
            category="1. Verdicts",
            labels={"table": "rows of every claim"},
        ),
    log:
        "<logs>/decide_claims/claims.log",
    localrule: True
    params:
        rules=config["claims"],
    run:
        run_script(rule, input, output, params, wildcards, log)


# What the archive keeps of other seeds, and of directions, which it leaves out where they are large.
REPLICATES = [
    str(path)
    for path in sorted(Path(ARCHIVE).glob("replicates/*/tables/*.csv"))
    if path.stem in COMPARED
]
ARCHIVED_VECTORS = sorted(map(str, Path(ARCHIVE).glob("networks/*/eigenvectors.safetensors")))


if COMPARABLE:

    rule compare_with_archive:
        input:
            archived_population="<archive>/population.nc" if "population" in OF_PROFILE else [],
            computed_population=artifact("population") if "population" in OF_PROFILE else [],
            archived_claims="<archive>/claims.csv" if JUDGED else [],
            computed_claims=rules.decide_claims.output.claims if JUDGED else [],
            archived=[f"<archive>/tables/{table}.csv" for table in COMPARED],
            computed=[f"<drawn>/tables/{table}.csv" for table in COMPARED],
            replicates=REPLICATES,
            # Whether the networks that are trained here are those of the archive.
            archived_checkpoints=expand(
                "<archive>/networks/{network}/checkpoint.safetensors", network=TRAINED
            ),
            computed_checkpoints=expand(f"{TRAINING}/checkpoint.safetensors", network=TRAINED),
            # How far directions are turned that others were measured along.
            archived_vectors=ARCHIVED_VECTORS,
            computed_vectors=expand(
                TENSORS["eigenvectors"], network=OF_NETWORKS.get("eigenpairs", [])
            ),
            code=code("compare_with_archive"),
        output:
            comparison="<drawn>/comparison.csv",
            verdicts="<drawn>/comparison_verdicts.csv",
            power="<drawn>/comparison_power.csv",
            summary="<drawn>/comparison.txt",
        log:
            "<logs>/compare_with_archive/comparison.log",
        localrule: True
        params:
            level="recomputed" if SOURCE == "recompute" else "retrained",
            configuration={key: COMPLETE[key] for key in ("precision", "networks", "analyses")},
        run:
            run_script(rule, input, output, params, wildcards, log)

else:

    rule compare_with_archive:
        """In place of a comparison."""
        output:
            summary="<drawn>/comparison.txt",
        log:
            "<logs>/compare_with_archive/comparison.log",
        localrule: True
        params:
            sentence=f"Nothing was compared: {ARCHIVE} does not hold these settings.\n",
        run:
            Path(output.summary).write_text(params.sentence)


rule record_replicate:
    input:
        checkpoints=expand(f"{TRAINING}/checkpoint.safetensors", network=TRAINED),
        code=code("record_replicate"),
    output:
        checkpoints="<drawn>/checkpoints.json",
        configuration="<drawn>/settings.yaml",
    log:
        "<logs>/record_replicate/replicate.log",
    localrule: True
    params:
        configuration=COMPLETE,
    run:
        run_script(rule, input, output, params, wildcards, log)
