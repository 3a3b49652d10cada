"""The tables that `demo.py --all`, `--all --training` and `--cost-only` print and README shows."""

from collections.abc import Iterator, Sequence

# The report's networks, ×3: (model, nf, modules) -> GFLOPs, M parameters, its best Set5 PSNR (RGB, course protocol).
REPORT = {
    ("IMDN_RTC", 12, 5): (2.820538368, 0.021825, 31.474),
    ("IMDN_RTC", 12, 16): (8.049917952, 0.062283, 31.84),
    ("IMDN_RTC", 16, 10): (9.051308032, 0.069795, 31.8),
    ("IMDN", 20, 6): (9.43325256, 0.072813, 31.911),
    ("IMDN_dw", 32, 10): (9.984547072, 0.079999, 32.027),
    ("IMDN_dw", 40, 6): (10.2157584, 0.081345, 32.021),
    ("IMDN_dw", 36, 8): (10.390347648, 0.083319, 32.0),
    ("DRLN_dw", 20, 11): (10.58146676, 0.09062, 31.868),
    ("DRLN_narrow", 12, 4): (10.767045792, 0.082599, 31.409),
    ("DRLN_slim", 36, 8): (10.88467488, 0.117399, 32.002),
    ("IMDN", 64, 6): (91.502942976, 0.703059, 32.274),  # the authors' weights
}


def network_key(result: dict) -> tuple[str, int, int]:
    return result["model"], result["hyperparameters"]["nf"], result["hyperparameters"]["num_modules"]


def is_reports_benchmark(result: dict) -> bool:
    """Whether a result can stand beside the report's: Set5 ×3 by the course protocol, the network run once."""
    measured = (result["images"], result["scale"], result["protocol"])
    return measured == ("Set5", 3, "course") and not result["ensemble"]


def results_table(results: Sequence[dict]) -> str:
    """Markdown, one row a network, those of the report's ×3 first, then by scale and FLOPs; what was not measured is –.

    Args:
        results: each with model, hyperparameters, scale, protocol, ensemble (whether of eight views), images, flops_g,
            params_m, average_psnr_db and, by the paper protocol, ssim. Results on Set5 ×3 by the course protocol, one
            view, are set beside all of the report's.
    """
    with_ssim = any("ssim" in result for result in results)
    with_report = any(is_reports_benchmark(result) for result in results)
    header = ["model", "nf", "modules", "scale", "FLOPs (G)", "PARAMS (M)", "PSNR (dB)"]
    header += ["SSIM"] * with_ssim + ["report (dB)", "difference"] * with_report
    rows = []
    for result in results:
        name, nf, modules = network_key(result)
        row = [name, nf, modules, f"×{result['scale']}", f"{result['flops_g']:.3f}", f"{result['params_m']:.6f}"]
        row += [f"{result['average_psnr_db']:.3f}"] + [f"{result['ssim']:.4f}" if "ssim" in result else "–"] * with_ssim
        if with_report:
            row += beside_report(result)
        rows.append(((result["scale"] != 3, result["scale"], result["flops_g"]), row))
    if with_report:
        trained = {network_key(result) for result in results if is_reports_benchmark(result)}
        for (name, nf, modules), (flops_g, params_m, psnr_db) in REPORT.items():
            if (name, nf, modules) not in trained:
                row = [name, nf, modules, "×3", f"{flops_g:.3f}", f"{params_m:.6f}", "–", f"{psnr_db:.3f}", "–"]
                rows.append(((False, 3, flops_g), row))
    return markdown(header, [row for _, row in sorted(rows, key=lambda pair: pair[0])])


def beside_report(result: dict) -> list[str]:
    """The report's PSNR of this network, and how far above it the result is; – where it has no such result."""
    if not is_reports_benchmark(result) or network_key(result) not in REPORT:
        return ["–", "–"]
    reports = REPORT[network_key(result)][2]
    return [f"{reports:.3f}", f"{result['average_psnr_db'] - reports:+.3f}"]


def cost_table(parts: Sequence[dict]) -> str:
    """Markdown, one row for each part of a network: its FLOPs, their share, parameters and activations.

    Args:
        parts: as utils.cost.cost_by_part returns them.
    """
    flops_g = sum(part["flops_g"] for part in parts) or 1  # none are counted of convs of the user's own classes alone
    rows = []
    for part in parts:
        row = [f"`{part['part']}`", f"{part['flops_g']:.3f}", f"{part['flops_g'] / flops_g:.1%}"]
        rows.append(row + [f"{part['params_m']:.6f}", f"{part['activations_m']:.2f}"])
    return markdown(["part", "FLOPs (G)", "share", "PARAMS (M)", "activations (M)"], rows)


def training_table(published: dict[str, dict]) -> str:
    """Markdown, one row a file: its metrics and what they took; what was not measured is –.

    Args:
        published: metadata of published weights, by file name.
    """
    header = ["weights", "Set5 RGB (dB)", "Set5 Y (dB, SSIM)", "B100 Y (dB, SSIM)"]
    header += ["iterations", "hours", "hardware", "seed of the last leg"]
    rows = []
    for name, metadata in published.items():
        metrics = {key.lower(): value for key, value in metadata["metrics"].items() if isinstance(value, dict)}
        shown = {"set5 course": "{average_psnr_db:.3f}"}
        shown |= dict.fromkeys(("set5 paper", "b100 paper"), "{average_psnr_db:.3f}, {ssim:.4f}")
        row = [name, *(form.format(**metrics[key]) if key in metrics else "–" for key, form in shown.items())]
        iterations = f"{metadata['iterations']:,}"
        if origins := list(origins_of(metadata.get("started_from"))):
            iterations += f" ({', '.join(origins)})"
        row += [iterations, f"{metadata['hours']:.2f}", metadata["hardware"], metadata["seed"]]
        rows.append(row)
    return markdown(header, rows)


def origins_of(started_from: dict | None) -> Iterator[str]:
    """The networks of other sizes or scales that came before, the last one first, with the iterations of each."""
    while started_from:
        before = started_from.get("before")
        if started_from["iterations"] is None:
            yield f"from {started_from['network']}"
        else:
            own = started_from["iterations"] - ((before or {}).get("iterations") or 0)
            yield f"{own:,} as {started_from['network']}"
        started_from = before


def markdown(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (header, ["---"] * len(header), *rows))
