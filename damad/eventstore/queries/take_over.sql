SELECT data_manager.take_over($1, $2)
