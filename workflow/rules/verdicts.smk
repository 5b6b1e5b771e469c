# The verdict for each claim, and the numbers of this machine beside the archive's.


rule decide_claims:
    input:
        **EVIDENCE,
        code=code("decide_claims"),
    output:
        claims=report(
            DRAWN + "/claims.csv",
            caption="../report/claims.rst",
            category="1. Verdicts",
            labels={"table": "claims"},
        ),
        rows=report(
            DRAWN + "/claim_rows.csv",
            caption="../report/claims.rst",
            category="1. Verdicts",
            labels={"table": "rows of every claim"},
        ),
    params:
        rules=config["claims"],
    log:
        "logs/" + PROFILE + "/decide_claims/claims.log",
    conda:
        "../../environment.yml"
    script:
        "../scripts/decide_claims.py"


rule compare_with_archive:
    input:
        archived=[f"{ARCHIVE}/tables/{table}.csv" for table in TABLES],
        computed=rules.make_tables.output,
        archived_claims=f"{ARCHIVE}/claims.csv",
        computed_claims=rules.decide_claims.output.claims,
        code=code("compare_with_archive"),
    output:
        comparison=DRAWN + "/comparison.csv",
        verdicts=DRAWN + "/comparison_verdicts.csv",
        summary=DRAWN + "/comparison.txt",
    params:
        tolerances=config["comparison"],
    log:
        "logs/" + PROFILE + "/compare_with_archive/comparison.log",
    conda:
        "../../environment.yml"
    script:
        "../scripts/compare_with_archive.py"
