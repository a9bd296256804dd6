#!/usr/bin/env bash
# Rebuilds the sample PDFs in samples/ from the Typst sources beside this
# script. It installs nothing; when a tool is missing it says which command
# installs it and stops.
#
#   samples/src/build.sh [OUTPUT-FOLDER]      default: the samples folder
#
# Every file but the encrypted one comes out byte for byte the same with the
# same tool versions (the committed files: Typst 0.15.1, qpdf 11.3.0,
# poppler-utils 22.12.0). AES-256 encryption salts its keys at random.
set -euo pipefail

src=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$(dirname "$src")}
python=${PYTHON:-python3}
user_password=calloway-sample
owner_password=calloway-owner
export SOURCE_DATE_EPOCH=1735689600 # 2025-01-01T00:00:00Z

missing=0
need() { # tool, how to install
  command -v "$1" >/dev/null && return
  echo "build.sh: $1 not found; install it with: $2" >&2
  missing=1
}
need qpdf "apt-get install qpdf"
need pdftoppm "apt-get install poppler-utils"
if command -v typst >/dev/null; then
  compiler=cli
elif "$python" -c 'import typst' 2>/dev/null; then
  compiler=python
else
  echo "build.sh: no Typst compiler; install one with:" \
    "python3 -m venv /tmp/typst-venv && /tmp/typst-venv/bin/pip install typst==0.15.2" >&2
  echo "build.sh: then run: PYTHON=/tmp/typst-venv/bin/python $0" >&2
  missing=1
fi
[ "$missing" = 0 ] || exit 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$src"/*.typ "$work"
mkdir -p "$out"

# compile NAME [untagged]: NAME.typ to $work/NAME.pdf, with Typst's own fonts
# only. The default is a tagged PDF; "untagged" leaves the structure tree out.
compile() {
  if [ "$compiler" = cli ]; then
    local flags=()
    [ "${2:-}" = untagged ] && flags=(--no-pdf-tags)
    typst compile --root "$work" --ignore-system-fonts "${flags[@]}" \
      --creation-timestamp "$SOURCE_DATE_EPOCH" "$work/$1.typ" "$work/$1.pdf"
  else
    "$python" - "$work" "$1" "${2:-tagged}" <<'PY'
import sys, typst
work, name, tags = sys.argv[1:]
typst.compile(f"{work}/{name}.typ", output=f"{work}/{name}.pdf", root=work,
              ignore_system_fonts=True, pdf_tags=tags == "tagged")
PY
  fi
}

# The scanned page: text to pixels, kept as a grey JPEG at 100 dpi.
compile scan-memorandum untagged
pdftoppm -r 100 -gray -jpeg -jpegopt quality=60 -singlefile \
  "$work/scan-memorandum.pdf" "$work/scan"

for name in eligibility-manual benefits-and-fee-schedule prior-authorization; do
  compile "$name"
done
for name in provider-bulletin appeals-and-fair-hearings \
  long-term-services-waiver managed-care-amendment program-integrity-protocol; do
  compile "$name" untagged
done

# Different writers leave different file structures: plain, linearized, and
# with the objects packed into object streams.
for name in eligibility-manual benefits-and-fee-schedule provider-bulletin \
  managed-care-amendment; do
  cp "$work/$name.pdf" "$out/$name.pdf"
done
qpdf --deterministic-id --linearize \
  "$work/appeals-and-fair-hearings.pdf" "$out/appeals-and-fair-hearings.pdf"
for name in prior-authorization long-term-services-waiver; do
  qpdf --deterministic-id --object-streams=generate "$work/$name.pdf" "$out/$name.pdf"
done
qpdf --encrypt "$user_password" "$owner_password" 256 -- \
  "$work/program-integrity-protocol.pdf" "$out/program-integrity-protocol.pdf"

ls -l "$out"/*.pdf
