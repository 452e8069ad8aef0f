# Runs COMMAND; what it prints is OUT.resources, and is shown too if it fails.
execute_process(COMMAND ${COMMAND} OUTPUT_FILE ${OUT}.resources ERROR_FILE ${OUT}.resources RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  file(READ ${OUT}.resources text)
  message(FATAL_ERROR "${text}")
endif()
