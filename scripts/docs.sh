#!/usr/bin/env bash
# Builds the site build/site/index.html from README, CONTRIBUTING, CHANGELOG and docs/; fails on a broken link.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/zensical ]; then
  source scripts/set_up_environment.sh
  set_up_environment "[docs]"
fi
rm -rf build/documents build/site
mkdir -p build
cp -r docs build/documents
cp LICENSE build/documents/LICENSE.txt
# Pages of the root folder are moved into the folder of the other pages, so links between them are adapted.
sed -E 's#\]\(docs/#](#g; s#\]\(CONTRIBUTING\.md#](contributing.md#g; s#\]\(LICENSE#](LICENSE.txt#g' README.md > build/documents/index.md
sed -E 's#\]\(docs/#](#g' CONTRIBUTING.md > build/documents/contributing.md
sed -E 's#\]\(docs/#](#g' CHANGELOG.md > build/documents/changelog.md
find build/documents -name '*.md' -exec sed -i.before -E \
  -e 's#\]\(\.\./((\.\./)*)CONTRIBUTING\.md#](\1contributing.md#g' \
  -e 's#\]\(\.\./((\.\./)*)CHANGELOG\.md#](\1changelog.md#g' {} +
# Only the guides link to README.
find build/documents/guides -name '*.md' -exec sed -i.before 's#](\.\./\.\./README\.md#](../index.md#g' {} +
find build/documents -name '*.before' -delete
exec .venv/bin/zensical build --clean --strict
