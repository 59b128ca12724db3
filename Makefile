.PHONY: help setup demo test selftest nightly bench site lint clean

help:
	@echo "make demo      install what is missing, grade a sample class in the sandbox, print the table"
	@echo "make test      install what is missing, run the tests (make nightly has the long ones)"
	@echo "make selftest  grade the grader: wrong answers must lose points, right ones none (EVERY=3: of the generated ones, one in three)"
	@echo "make nightly   the tests that have a longer form, in that form, those that need a browser or PostgreSQL, all generated mutants, and fuzzing"
	@echo "make bench     CPU time beside nbgrader, otter-grader, pytest, peft, bitsandbytes, as ratios (OTTER=python: that has otter-grader)"
	@echo "make site      the course as a static site, build/site/html (make site OUTPUTS=0: notebooks without outputs, quick)"
	@echo "make lint      ruff, mypy and autograder build --check"
	@echo "make clean     remove what demo wrote (.venv stays)"

setup:
	@sh scripts/setup.sh

demo: setup
	@sh scripts/demo.sh

test: setup
	@sh scripts/test.sh

selftest: setup
	OMP_NUM_THREADS=1 .venv/bin/autograder selftest --quiet $(if $(EVERY),--every $(EVERY))

nightly: setup
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz,postgres]"
	NIGHTLY=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests/test_bank.py tests/test_rewrites.py tests/test_notebooks.py \
		tests/test_release.py tests/test_forgers.py tests/test_fairness.py tests/test_faults.py tests/test_home.py tests/week*/test_notebook.py \
		tests/browser tests/postgres
	$(MAKE) selftest
	OMP_NUM_THREADS=1 .venv/bin/python scripts/fuzz.py --seconds 180
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.seeds --seeds 1000

bench: setup
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/peers.py $(if $(OTTER),--otter $(OTTER))

site: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m course.site $(if $(filter 0,$(OUTPUTS)),--no-outputs)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/autograder build --check

clean:
	rm -rf build
