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
    params:
        rules=config["claims"],
    run:
        run_script(rule, input, output, params, wildcards, log)


rule compare_with_archive:
    input:
        archived=[f"<archive>/tables/{table}.csv" for table in TABLES],
        computed=rules.make_tables.output,
        archived_claims="<archive>/claims.csv",
        computed_claims=rules.decide_claims.output.claims,
        # Whether the networks that are trained here are those of the archive.
        archived_checkpoints=expand(
            "<archive>/networks/{network}/checkpoint.safetensors", network=TRAINED
        ),
        computed_checkpoints=expand(
            f"{NETWORK}/checkpoint.safetensors", network=TRAINED
        ),
        archived_population=(
            evidence("population") if COMPANION else "<archive>/population.nc"
        ),
        computed_population=evidence("population"),
        code=code("compare_with_archive"),
    output:
        comparison="<drawn>/comparison.csv",
        verdicts="<drawn>/comparison_verdicts.csv",
        summary="<drawn>/comparison.txt",
    log:
        "<logs>/compare_with_archive/comparison.log",
    params:
        tolerances=config["comparison"],
    run:
        run_script(rule, input, output, params, wildcards, log)
