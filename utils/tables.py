"""The results table: the one that `demo.py --all` prints and README shows."""

from collections.abc import Sequence

COLUMNS = ("model", "nf", "modules", "scale", "FLOPs (G)", "PARAMS (M)", "PSNR (dB)")


def results_table(results: Sequence[dict]) -> str:
    """Markdown, one row a network, cheapest first.

    Args:
        results: each with model, hyperparameters, flops_g, params_m and average_psnr_db.
    """
    rows = [
        (
            result["model"],
            str(result["hyperparameters"]["nf"]),
            str(result["hyperparameters"]["num_modules"]),
            f"×{result['hyperparameters']['scale']}",
            f"{result['flops_g']:.3f}",
            f"{result['params_m']:.6f}",
            f"{result['average_psnr_db']:.3f}",
        )
        for result in sorted(results, key=lambda result: result["flops_g"])
    ]
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
