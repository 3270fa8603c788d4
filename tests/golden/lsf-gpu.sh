#!/usr/bin/env bash

#BSUB -J voxelmill
#BSUB -e /out/logs/workers/voxelmill-0-%J.err
#BSUB -o /out/logs/workers/voxelmill-0-%J.out
#BSUB -q long
#BSUB -P "radiology"
#BSUB -n 4
#BSUB -R "span[hosts=1]"
#BSUB -M 17179870
#BSUB -W 12:00
#BSUB --one-more-word
#BSUB -gpu num=1
module load python
export DASK_CONFIG=/env/voxelmill/dask.yaml
export PYTHONFAULTHANDLER=1
/env/bin/python -m distributed.cli.dask_worker tcp://<address of the scheduler>:8786 --name voxelmill-0 --nthreads 4 --memory-limit 16.00GiB --nanny --death-timeout 60 --no-dashboard --preload voxelmill.worker --preload-nanny voxelmill.nanny --lifetime 38880s --lifetime-stagger 2160s --resources GPU=4 --interface lo
