"""`python -m k8s.monitoring.generator`: write every generated file of `k8s/monitoring` anew."""

from k8s.monitoring.generator.files import FOLDER, generated

for name, text in generated().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
