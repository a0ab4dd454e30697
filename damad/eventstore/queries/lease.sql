SELECT holder, fence, until, waiting FROM data_manager.leases WHERE etl_context_id = $1
